# The usual settings of plain backbones (ViTDet), not the publication's.
_base_ = "../../../downstream/configs/shared/semantic-fpn_80k_ade20k.py"

# One size, since VARS-S, VARS-SD and the starred hosts are tied to a grid of tokens.
size = 512
model = dict(
    backbone=dict(name="rvt_small", img_size=size, drop_path_rate=0.1),
    neck=dict(_delete_=True, type="SimplePyramid", in_channels=None, in_strides=None, num_outs=4),
    test_cfg=dict(mode="slide", crop_size=(size, size), stride=(341, 341)),
)
