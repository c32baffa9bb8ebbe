# The released README names neither detector nor schedule; its parameters are those of Cascade Mask R-CNN as Swin has
# it, whose schedule this is. Stochastic depth as for ImageNet.
_base_ = ["../../../downstream/configs/shared/mask-rcnn_3x_coco.py", "../../../downstream/configs/shared/cascade.py"]

model = dict(
    type="CascadeRCNN",
    roi_head=_base_.cascade_roi_head,
    train_cfg=dict(rcnn=_base_.cascade_rcnn),
    backbone=dict(name="msg_tiny", drop_path_rate=0.1, output_norm=True),
)
variants = dict(msg_small=dict(drop_path_rate=0.3), msg_base=dict(drop_path_rate=0.5))
