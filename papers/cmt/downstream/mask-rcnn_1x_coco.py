# No detector was released, and the abstract names none: the shared schedule, and stochastic depth as in classification.
_base_ = "../../../downstream/configs/shared/mask-rcnn_1x_coco.py"

model = dict(backbone=dict(name="cmt_s", drop_path_rate=0.1))
