# github.com/ma-xu/FCViT @77e5a9d, detection/configs: 32 images in a batch on 8 GPUs; each map is normed.
_base_ = "../../../downstream/configs/shared/mask-rcnn_1x_coco.py"

model = dict(backbone=dict(name="fcvit_b12", model_args=dict(map_norms=True, ls_init_value=1e-6)))
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
train_dataloader = dict(batch_size=4)
