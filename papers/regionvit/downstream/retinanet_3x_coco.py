# detection/configs/retinanet_regionvit_FPN_3x_ms.yaml: as Mask R-CNN.
_base_ = ["retinanet_1x_coco.py", "../../../downstream/configs/shared/several_sizes.py"]

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=0.5),
    _base_.several_sizes,
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
max_epochs = 36
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=max_epochs, by_epoch=True, milestones=[28, 33], gamma=0.1),
]
