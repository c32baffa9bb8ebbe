# As for VARS, with self-attention.
_base_ = "../vars/all-mlp_160k_cityscapes.py"

model = dict(backbone=dict(name="rvt_small"))
