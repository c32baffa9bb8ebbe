# As for VARS, with self-attention.
_base_ = "../vars/cascade-mask-rcnn_3x_coco.py"

model = dict(backbone=dict(name="rvt_small"))
