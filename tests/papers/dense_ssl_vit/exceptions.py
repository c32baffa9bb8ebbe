"""What ``tests/test_timm.py`` does not ask of this paper's models, and why."""

_PRETRAINING = "Projection heads are read by the losses of pre-training alone."
WITHOUT_GRADIENT = {"global_projection.*": _PRETRAINING, "local_projection.*": _PRETRAINING}
