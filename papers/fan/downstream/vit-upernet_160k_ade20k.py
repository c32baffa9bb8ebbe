# FAN-ViT, not reported by the paper: the simple pyramid on its last map, and the stochastic depth of FAN-Hybrid's.
_base_ = "../../../downstream/configs/shared/upernet_160k_ade20k.py"

model = dict(
    backbone=dict(name="fan_small_12_p16_224", drop_path_rate=0.3),
    neck=dict(type="SimplePyramid", in_channels=None, in_strides=None, num_outs=4),
    decode_head=dict(in_channels=[256] * 4),
    auxiliary_head=dict(in_channels=256),
)
find_unused_parameters = True
