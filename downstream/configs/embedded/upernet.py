# UPerNet on the embedded composition: canvases of 64 pixels, a backbone of stride 4.
_base_ = [
    "mmseg::_base_/models/upernet_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/default_runtime.py",
]

classes = ("background", "Trouser", "Pullover", "Dress", "Bag", "Ankle boot")
channels = 32
norm_cfg = dict(type="BN")

model = dict(
    # Black to white, as the data is.
    data_preprocessor=dict(mean=[72.9] * 3, std=[90.0] * 3, bgr_to_rgb=False, size=(64, 64)),
    pretrained=None,
    backbone=dict(_delete_=True, type="TimmFeatures", name=""),
    neck=dict(
        type="SimplePyramid",
        in_channels=None,
        in_strides=None,
        out_strides=(4, 8, 16),
        out_channels=channels,
        num_outs=3,
    ),
    decode_head=dict(
        in_channels=[channels] * 3,
        in_index=[0, 1, 2],
        pool_scales=(1, 2),
        channels=channels,
        dropout_ratio=0.0,
        num_classes=len(classes),
        norm_cfg=norm_cfg,
        # Most pixels are background, of which the first iterations would make the easy solution.
        loss_decode=dict(class_weight=[0.25, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ),
    auxiliary_head=None,
)

# Canvases are small as they are: nothing is resized.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
palette = [[128, 128, 128], [0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0]]
# ADE20K's format, but not its classes.
dataset = dict(type="BaseSegDataset", metainfo=dict(classes=classes, palette=palette), reduce_zero_label=True)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(**dataset, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(**dataset, pipeline=test_pipeline)
)
test_dataloader = val_dataloader

iterations = 260
# No validation on the way: the measurement comes right after.
train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_begin=iterations + 1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="LayerDecay",
    optimizer=dict(type="AdamW", lr=5e-3, weight_decay=0.05),
)
param_scheduler = [
    dict(type="OneCycleLR", eta_max=5e-3, total_steps=iterations, by_epoch=False),
]
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=iterations),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
