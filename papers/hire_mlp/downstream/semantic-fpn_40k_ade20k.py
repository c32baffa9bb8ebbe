# mmseg-v0.11/configs/sem_fpn/hire_mlp_small_512x512_ade20k.py; 4 crops a GPU, of how many is not printed.
_base_ = "../../../downstream/configs/shared/semantic-fpn_80k_ade20k.py"

model = dict(backbone=dict(name="hire_mlp_small", drop_path_rate=0.1))
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
param_scheduler = [dict(type="PolyLR", power=0.9, begin=0, end=40000, eta_min=0.0, by_epoch=False)]
train_cfg = dict(max_iters=40000)
train_dataloader = dict(batch_size=4)
