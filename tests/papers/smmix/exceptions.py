"""What ``tests/test_timm.py`` does not ask of this paper's models, and why."""

WITHOUT_GRADIENT = {"token_head.*": "The second head is read by the method's loss alone; at inference there is DeiT."}
