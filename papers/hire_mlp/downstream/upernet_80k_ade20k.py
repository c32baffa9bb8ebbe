# mmseg-v0.11/configs/upernet/hire_mlp_small_512x512_ade20k.py; 4 crops a GPU, of how many is not printed.
_base_ = "../../../downstream/configs/shared/upernet_160k_ade20k.py"

model = dict(
    backbone=dict(name="hire_mlp_small", drop_path_rate=0.2, model_args=dict(map_norms=True)),
    auxiliary_head=dict(loss_decode=dict(loss_weight=0.4)),
)
optim_wrapper = dict(optimizer=dict(lr=1.2e-4, betas=(0.9, 0.999), weight_decay=0.01))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=800),
    dict(type="PolyLR", power=1.0, begin=800, end=80000, eta_min=0.0, by_epoch=False),
]
train_cfg = dict(max_iters=80000)
train_dataloader = dict(batch_size=4)
