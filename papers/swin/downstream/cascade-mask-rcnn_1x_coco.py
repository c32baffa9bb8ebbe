# Stochastic depth: github.com/SwinTransformer/Swin-Transformer-Object-Detection @c7b20110, configs/swin. The release
# trains with images of several sizes here, too.
_base_ = ["../../../downstream/configs/shared/mask-rcnn_3x_coco.py", "../../../downstream/configs/shared/cascade.py"]

model = dict(
    type="CascadeRCNN",
    roi_head=_base_.cascade_roi_head,
    train_cfg=dict(rcnn=_base_.cascade_rcnn),
    backbone=dict(name="swin_tiny_patch4_window7_224", drop_path_rate=0.0, output_norm=True),
)
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=max_epochs, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
