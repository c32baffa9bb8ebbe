# The publication's downstream settings could not be read; these are the usual ones of plain backbones (ViTDet).
_base_ = "../shared/mask-rcnn_3x_coco.py"

# One size for all attentions: VARS-S and VARS-SD, and the starred hosts, are tied to a grid of tokens.
size = 1024
model = dict(
    data_preprocessor=dict(pad_size_divisor=size),
    backbone=dict(name="vars_d_rvt_small", img_size=size, drop_path_rate=0.1),
    neck=dict(_delete_=True, type="SimplePyramid", in_channels=None, in_strides=None),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    # Large-scale jitter, as in ViTDet.
    dict(type="RandomResize", scale=(size, size), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type="RandomCrop", crop_type="absolute", crop_size=(size, size), recompute_bbox=True, allow_negative_crop=True
    ),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(size, size), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
