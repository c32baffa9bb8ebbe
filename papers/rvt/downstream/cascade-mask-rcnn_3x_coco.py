# Cascade Mask R-CNN with the settings of Mask R-CNN.
_base_ = ["./mask-rcnn_3x_coco.py", "../../../downstream/configs/shared/cascade.py"]

model = dict(
    type="CascadeRCNN",
    roi_head=_base_.cascade_roi_head,
    train_cfg=dict(rcnn=_base_.cascade_rcnn),
)
