# Swin's own configuration (README.md of github.com/jiawangbai/HAT @1b772b4), from weights that were trained with HAT.
_base_ = "../../swin/downstream/upernet_160k_ade20k.py"
