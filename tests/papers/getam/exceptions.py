"""What ``tests/test_timm.py`` does not ask of this paper's models, and why."""

_PIXELS = "Logits of pixels are returned beside those of classes in the paper's training alone."
WITHOUT_GRADIENT = {"fusion.*": _PIXELS, "excitation.*": _PIXELS, "segmentation.*": _PIXELS}
for _finer in range(3):  # the classifier reads the coarsest map
    WITHOUT_GRADIENT[f"reassemble.{_finer}.*"] = _PIXELS
WITHOUT_MAPS = {"*": "What its forward_features returns are its maps."}
