# detection/configs/retinanet_regionvit_FPN_1x.yaml: as Mask R-CNN.
_base_ = "../../../downstream/configs/shared/retinanet_1x_coco.py"

model = dict(
    # As released: blue's statistics on red and the reverse.
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395]),
    backbone=dict(name="regionvit_small", drop_path_rate=0.2, out_indices=(1, 2, 3), model_args=dict(map_norms=True)),
    neck=dict(start_level=0),
)
scale = (1120, 672)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
