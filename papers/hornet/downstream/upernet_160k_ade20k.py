# github.com/raoyongming/HorNet @ac9e210, semantic_segmentation/configs/hornet. Learning rates decay by stages, all
# projections between which are one layer; the first stage is 6 layers before the heads in HorNet-T, 12 in the others.
# Global filters are stored for 384 pixels, and gradients of networks with them are clipped.
_base_ = "../../../downstream/configs/shared/upernet_160k_ade20k.py"

model = dict(
    backbone=dict(name="hornet_tiny_7x7", drop_path_rate=0.4, output_norm=True),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
_six, _twelve = [
    [("downsample_layers.", first + 1), *((f"stages.{stage}.", first - stage) for stage in range(4))]
    for first in (6, 12)
]
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05), paramwise_cfg=dict(layer_decay=0.9, layers=_six))
_wider = {"optim_wrapper.paramwise_cfg.layers": _twelve}
_global = {"img_size": 384, "optim_wrapper.clip_grad": dict(max_norm=1.0)}
variants = dict(
    hornet_tiny_gf=_global,
    hornet_small_7x7={"drop_path_rate": 0.3, **_wider},
    hornet_small_gf={"drop_path_rate": 0.3, **_wider, **_global},
    hornet_base_7x7={"drop_path_rate": 0.4, **_wider},
    hornet_base_gf={"drop_path_rate": 0.5, **_wider, **_global},
)
