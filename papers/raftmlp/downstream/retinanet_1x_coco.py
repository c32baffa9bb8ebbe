# configs/detection/retinanet_raftmlp_s_fpn_1x_coco.py: 8 GPUs with 2 images, warm-up of 500 iterations from 1e-3.
_base_ = "../../../downstream/configs/shared/retinanet_1x_coco.py"

model = dict(backbone=dict(name="raftmlp_s", model_args=dict(embedding_as_map=True)))
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
