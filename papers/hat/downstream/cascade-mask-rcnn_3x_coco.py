# Swin's own configuration (README.md of github.com/jiawangbai/HAT @1b772b4), from weights that were trained with HAT.
_base_ = "../../swin/downstream/cascade-mask-rcnn_3x_coco.py"
