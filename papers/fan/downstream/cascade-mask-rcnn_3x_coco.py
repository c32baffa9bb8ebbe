# FAN-Hybrid: github.com/NVlabs/FAN detection/configs and detection/models/fan.py @ee1b7df. The last block's map and,
# by a convolution with stride 2, the map after class attention are the third and fourth level.
_base_ = ["../../../downstream/configs/shared/mask-rcnn_3x_coco.py", "../../../downstream/configs/shared/cascade.py"]

corruptions = "fan_detection"
model = dict(
    type="CascadeRCNN",
    roi_head=_base_.cascade_roi_head,
    train_cfg=dict(rcnn=_base_.cascade_rcnn),
    backbone=dict(
        name="fan_tiny_8_p4_hybrid",
        out_indices=(0, 1, -2, -1),
        downsample=768,
        drop_path_rate=0.3,
        grad_checkpointing=True,
    ),
)
train_dataloader = dict(batch_size=1)
# The release takes the third map of FAN-L after 19 of its 22 blocks.
variants = dict(fan_large_16_p4_hybrid=dict(out_indices=(0, 1, 20, -1)))
# Of class attention, nothing but what changes the other tokens has a gradient.
find_unused_parameters = True
