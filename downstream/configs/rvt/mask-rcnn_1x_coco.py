# As for VARS, with self-attention.
_base_ = "../vars/mask-rcnn_1x_coco.py"

model = dict(backbone=dict(name="rvt_small"))
