# Stochastic depth: mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py.
_base_ = "../shared/retinanet_1x_coco.py"

model = dict(
    backbone=dict(name="swin_tiny_patch4_window7_224", drop_path_rate=0.2, output_norm=True),
)
