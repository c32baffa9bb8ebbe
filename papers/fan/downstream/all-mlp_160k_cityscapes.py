# FAN-Hybrid: github.com/NVlabs/FAN segmentation/local_configs/fan/fan_hybrid @ee1b7df.
_base_ = "../../../downstream/configs/shared/all-mlp_160k_cityscapes.py"

model = dict(backbone=dict(name="fan_tiny_8_p4_hybrid", out_indices=(0, 1, -2, -1)))
# The release takes the third map of FAN-L after 19 of its 22 blocks.
variants = dict(fan_large_16_p4_hybrid=dict(out_indices=(0, 1, 20, -1)))
# Of class attention, nothing but what changes the other tokens has a gradient.
find_unused_parameters = True
