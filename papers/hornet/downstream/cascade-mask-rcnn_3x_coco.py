# github.com/raoyongming/HorNet @ac9e210, object_detection/configs/hornet. Learning rates decay over 12 layers, as where
# the release fine-tunes classifiers.
_base_ = ["../../../downstream/configs/shared/mask-rcnn_3x_coco.py", "../../../downstream/configs/shared/cascade.py"]

model = dict(
    type="CascadeRCNN",
    roi_head=_base_.cascade_roi_head,
    train_cfg=dict(rcnn=_base_.cascade_rcnn),
    backbone=dict(name="hornet_tiny_7x7", drop_path_rate=0.4, output_norm=True),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4), paramwise_cfg=dict(layer_decay=0.7))
_base = {"drop_path_rate": 0.7, "optim_wrapper.paramwise_cfg.layer_decay": 0.8}
_large = {"drop_path_rate": 0.7, "optim_wrapper.optimizer.lr": 1e-4}
variants = dict(
    hornet_small_7x7=dict(drop_path_rate=0.6),
    hornet_small_gf=dict(drop_path_rate=0.6),
    hornet_base_7x7=_base,
    hornet_base_gf=_base,
    hornet_large_7x7=_large,
    # The release stores its filters for 384 pixels, those of the others for 224.
    hornet_large_gf={**_large, "img_size": 384},
)
