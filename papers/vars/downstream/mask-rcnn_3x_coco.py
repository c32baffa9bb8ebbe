# As RVT's, with VARS-D: VARS's own downstream settings could not be read.
_base_ = "../../rvt/downstream/mask-rcnn_3x_coco.py"

model = dict(backbone=dict(name="vars_d_rvt_small"))
