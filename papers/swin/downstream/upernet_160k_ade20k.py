# Stochastic depth: github.com/SwinTransformer/Swin-Transformer-Semantic-Segmentation @87e6f90, configs/swin; 0.3 for
# Swin-S and Swin-B, too.
_base_ = "../../../downstream/configs/shared/upernet_160k_ade20k.py"

model = dict(
    backbone=dict(name="swin_tiny_patch4_window7_224", drop_path_rate=0.3, output_norm=True),
)
