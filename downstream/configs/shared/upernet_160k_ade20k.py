# UPerNet, 160,000 iterations of 16 crops of 512 pixels, as mmseg trains Swin.
_base_ = "mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(_delete_=True, type="TimmFeatures", name=""),
    decode_head=dict(in_channels=None),
    auxiliary_head=dict(in_channels=None),
)
optim_wrapper = dict(constructor="LayerDecay", paramwise_cfg=dict(_delete_=True, layer_decay=1.0))
