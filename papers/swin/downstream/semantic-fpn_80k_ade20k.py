# Not reported by the paper; stochastic depth as in its detectors.
_base_ = "../../../downstream/configs/shared/semantic-fpn_80k_ade20k.py"

model = dict(
    backbone=dict(name="swin_tiny_patch4_window7_224", drop_path_rate=0.2, output_norm=True),
)
