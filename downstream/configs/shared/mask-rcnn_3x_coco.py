# Mask R-CNN, 36 epochs with images of several sizes, some cropped first (DETR's augmentation).
_base_ = "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(_delete_=True, type="TimmFeatures", name=""), neck=dict(in_channels=None))
optim_wrapper = dict(constructor="LayerDecay", paramwise_cfg=dict(_delete_=True, layer_decay=1.0))
