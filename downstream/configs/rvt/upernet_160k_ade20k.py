# As for VARS, with self-attention.
_base_ = "../vars/upernet_160k_ade20k.py"

model = dict(backbone=dict(name="rvt_small"))
