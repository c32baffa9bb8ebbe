# HorNet-L, from ImageNet-22k: crops of 640 pixels.
_base_ = "upernet_160k_ade20k.py"

crop_size = (640, 640)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(name="hornet_large_7x7"),
    test_cfg=dict(crop_size=crop_size, stride=(426, 426)),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay=0.8, layers=_base_._twelve))
variants = dict(
    hornet_large_gf={"img_size": 384, "grad_checkpointing": True, "optim_wrapper.clip_grad": dict(max_norm=0.1)},
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="RandomResize", scale=(2560, 640), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2560, 640), keep_ratio=True),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
