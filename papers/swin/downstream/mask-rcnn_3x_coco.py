# Stochastic depth: github.com/SwinTransformer/Swin-Transformer-Object-Detection @c7b20110, configs/swin;
# 0.2 for Swin-S, too.
_base_ = "../../../downstream/configs/shared/mask-rcnn_3x_coco.py"

model = dict(
    backbone=dict(name="swin_tiny_patch4_window7_224", drop_path_rate=0.2, output_norm=True),
)
