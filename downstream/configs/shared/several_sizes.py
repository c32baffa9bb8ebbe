# Images of COCO of 14 sizes, half of them cropped first: DETR's augmentation with the sizes of RegionViT's detectors,
# whose longer side is 1120 pixels at most, or 1344.
several_sizes, several_larger_sizes = [
    dict(
        type="RandomChoice",
        transforms=[
            [dict(type="RandomChoiceResize", scales=scales, keep_ratio=True)],
            [
                dict(
                    type="RandomChoiceResize",
                    scales=[(scales[0][0], side) for side in (400, 500, 600)],
                    keep_ratio=True,
                ),
                dict(type="RandomCrop", crop_type="absolute_range", crop_size=(384, 600), allow_negative_crop=True),
                dict(type="RandomChoiceResize", scales=scales, keep_ratio=True),
            ],
        ],
    )
    for scales in [[(longest, side) for side in range(480, 897, 32)] for longest in (1120, 1344)]
]
