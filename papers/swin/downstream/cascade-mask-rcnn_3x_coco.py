# Stochastic depth: github.com/SwinTransformer/Swin-Transformer-Object-Detection @c7b20110, configs/swin.
_base_ = ["../../../downstream/configs/shared/mask-rcnn_3x_coco.py", "../../../downstream/configs/shared/cascade.py"]

model = dict(
    type="CascadeRCNN",
    roi_head=_base_.cascade_roi_head,
    train_cfg=dict(rcnn=_base_.cascade_rcnn),
    backbone=dict(name="swin_tiny_patch4_window7_224", drop_path_rate=0.2, output_norm=True),
)
variants = dict(swin_base_patch4_window7_224=dict(drop_path_rate=0.3))
