# github.com/ma-xu/FCViT @77e5a9d, segmentation/configs/sem_fpn: 32 crops in a batch on 8 GPUs; each map is normed.
_base_ = "../../../downstream/configs/shared/semantic-fpn_80k_ade20k.py"

model = dict(backbone=dict(name="fcvit_b12", model_args=dict(map_norms=True, ls_init_value=1e-6)))
param_scheduler = [dict(type="PolyLR", power=0.9, begin=0, end=40000, eta_min=0.0, by_epoch=False)]
train_cfg = dict(max_iters=40000)
train_dataloader = dict(batch_size=4)
