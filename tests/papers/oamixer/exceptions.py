"""What ``tests/test_timm.py`` does not ask of this paper's models, and why."""

WITHOUT_GRADIENT = {"*.mask_scale": "Masks are made of labels of patches, which a classifier of images alone has not."}
