# configs/segmentation/fpn_raftmlp_s_512x512_40k_ade20k.py: 8 GPUs with 4 crops.
_base_ = "../../../downstream/configs/shared/semantic-fpn_80k_ade20k.py"

model = dict(backbone=dict(name="raftmlp_s", model_args=dict(embedding_as_map=True)))
param_scheduler = [dict(type="PolyLR", power=0.9, begin=0, end=40000, eta_min=0.0, by_epoch=False)]
train_cfg = dict(max_iters=40000)
train_dataloader = dict(batch_size=4)
