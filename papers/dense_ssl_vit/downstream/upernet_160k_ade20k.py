# Ours, for no setting of the publication was at hand: the simple pyramid on the last map of ViT-S/16.
_base_ = "../../../downstream/configs/shared/upernet_160k_ade20k.py"

model = dict(
    backbone=dict(name="dense_ssl_vit_small_patch16_224", drop_path_rate=0.1),
    neck=dict(type="SimplePyramid", in_channels=None, in_strides=None, num_outs=4),
    decode_head=dict(in_channels=[256] * 4),
    auxiliary_head=dict(in_channels=256),
)
find_unused_parameters = True
