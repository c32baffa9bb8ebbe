# Images of COCO in squares, for plain backbones (ViTDet): one size for all attentions, since VARS-S and VARS-SD, and
# the starred hosts, are tied to a grid of tokens.
square_size = 1024
_load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
_scale = (square_size, square_size)
square_train = [
    *_load,
    dict(type="RandomFlip", prob=0.5),
    dict(type="Resize", scale=_scale, keep_ratio=True),
    dict(type="PackDetInputs"),
]
# Large-scale jitter.
square_train_jittered = [
    *_load,
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=_scale, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_type="absolute", crop_size=_scale, recompute_bbox=True, allow_negative_crop=True),
    dict(type="PackDetInputs"),
]
square_test = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=_scale, keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
