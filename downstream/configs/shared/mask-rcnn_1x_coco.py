# Mask R-CNN, 12 epochs, as OpenMMLab trains Swin: AdamW, learning rate 1e-4, decay 0.05, warm-up of 1000 iterations.
_base_ = "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py"

model = dict(backbone=dict(_delete_=True, type="TimmFeatures", name=""), neck=dict(in_channels=None))
optim_wrapper = dict(constructor="LayerDecay", paramwise_cfg=dict(_delete_=True, layer_decay=1.0))
