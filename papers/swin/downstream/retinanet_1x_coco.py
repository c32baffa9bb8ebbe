# Stochastic depth: mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py.
_base_ = "../../../downstream/configs/shared/retinanet_1x_coco.py"

model = dict(
    backbone=dict(name="swin_tiny_patch4_window7_224", drop_path_rate=0.2, output_norm=True, out_indices=(1, 2, 3)),
    # A map that the pyramid leaves out would have a norm without a gradient.
    neck=dict(start_level=0),
)
