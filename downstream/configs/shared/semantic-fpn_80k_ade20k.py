# Semantic FPN, 80,000 iterations of 16 crops of 512 pixels; AdamW, learning rate 2e-4, decay 1e-4, as PoolFormer's in
# mmseg (mmseg::poolformer), but for twice as long.
_base_ = [
    "mmseg::_base_/models/fpn_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/default_runtime.py",
    "mmseg::_base_/schedules/schedule_80k.py",
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(_delete_=True, type="TimmFeatures", name=""),
    neck=dict(in_channels=None),
    decode_head=dict(num_classes=150),
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    constructor="LayerDecay",
    optimizer=dict(type="AdamW", lr=2e-4, weight_decay=1e-4),
)
param_scheduler = [dict(type="PolyLR", power=0.9, begin=0, end=80000, eta_min=0.0, by_epoch=False)]
train_dataloader = dict(batch_size=2)
