# Mask R-CNN on the embedded composition: canvases of 64 pixels, garments of 21 to 35, a backbone of stride 4.
# Everything is as small as training in a minute on a core asks for.
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/default_runtime.py",
]

classes = ("Trouser", "Pullover", "Dress", "Bag", "Ankle boot")
channels = 32

model = dict(
    # Black to white, as the data is.
    data_preprocessor=dict(mean=[72.9] * 3, std=[90.0] * 3, bgr_to_rgb=False, pad_size_divisor=16),
    backbone=dict(_delete_=True, type="TimmFeatures", name="", model_args=dict()),
    neck=dict(
        _delete_=True,
        type="SimplePyramid",
        in_channels=None,
        in_strides=None,
        out_strides=(4, 8),
        out_channels=channels,
        num_outs=2,
    ),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[4], ratios=[0.5, 1.0, 2.0], strides=[4, 8]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(output_size=7), out_channels=channels, featmap_strides=[4, 8], finest_scale=28
        ),
        bbox_head=dict(in_channels=channels, fc_out_channels=128, num_classes=len(classes)),
        mask_roi_extractor=dict(
            roi_layer=dict(output_size=7), out_channels=channels, featmap_strides=[4, 8], finest_scale=28
        ),
        mask_head=dict(num_convs=2, in_channels=channels, conv_out_channels=channels, num_classes=len(classes)),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=100, max_per_img=50),
        rcnn=dict(sampler=dict(num=32), mask_size=14),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=100, max_per_img=30), rcnn=dict(score_thr=0.05, max_per_img=20, mask_thr_binary=0.5)
    ),
)

# Canvases have this size already; mmdet wants to be told.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
metainfo = dict(classes=classes)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler"),
    batch_sampler=None,
    dataset=dict(metainfo=metainfo, filter_cfg=None, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(metainfo=metainfo, pipeline=test_pipeline)
)
test_dataloader = val_dataloader

iterations = 170
# No validation on the way: the measurement comes right after.
train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_begin=iterations + 1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="LayerDecay",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="OneCycleLR", eta_max=2e-3, total_steps=iterations, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=iterations))
log_processor = dict(by_epoch=False)
