# No detector of the publication was released: the shared schedule, and stochastic depth as in its Semantic FPN.
_base_ = "../../../downstream/configs/shared/mask-rcnn_1x_coco.py"

model = dict(backbone=dict(name="hire_mlp_small", drop_path_rate=0.1))
