# FAN-ViT, not reported by the paper: the simple pyramid on its last map, and the stochastic depth of FAN-Hybrid's.
_base_ = "../../../downstream/configs/shared/mask-rcnn_1x_coco.py"

model = dict(
    backbone=dict(name="fan_small_12_p16_224", drop_path_rate=0.3),
    neck=dict(_delete_=True, type="SimplePyramid", in_channels=None, in_strides=None),
)
find_unused_parameters = True
