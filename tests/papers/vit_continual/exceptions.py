"""What ``tests/test_timm.py`` does not ask of this paper's models, and why."""

WITHOUT_MAPS = {"early_conv_vit": "It takes tokens from any stem and does not know their grid."}
