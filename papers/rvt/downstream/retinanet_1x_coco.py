# The usual settings of plain backbones (ViTDet), not the publication's.
_base_ = ["../../../downstream/configs/shared/retinanet_1x_coco.py", "../../../downstream/configs/shared/square.py"]

model = dict(
    data_preprocessor=dict(pad_size_divisor=_base_.square_size),
    backbone=dict(name="rvt_small", img_size=_base_.square_size, drop_path_rate=0.1),
    neck=dict(_delete_=True, type="SimplePyramid", in_channels=None, in_strides=None, out_strides=(8, 16, 32)),
)
# It learns boxes alone.
load_boxes = dict(type="LoadAnnotations", with_bbox=True)
train_pipeline = [load_boxes if step["type"] == "LoadAnnotations" else step for step in _base_.square_train]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=_base_.square_test))
test_dataloader = val_dataloader
