# RetinaNet, 12 epochs, with the optimizer of Mask R-CNN.
_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]

model = dict(backbone=dict(_delete_=True, type="TimmFeatures", name=""), neck=dict(in_channels=None))
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    constructor="LayerDecay",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
)
