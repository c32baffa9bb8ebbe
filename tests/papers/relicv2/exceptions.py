"""What ``tests/test_timm.py`` does not ask of this paper's models, and why."""

WITHOUT_GRADIENT = {"projection.*": "The projection head is trained by the contrastive loss, in pre-training alone."}
