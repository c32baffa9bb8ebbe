"""What ``tests/test_timm.py`` does not ask of this paper's models, and why."""

WITHOUT_GRADIENT = {
    "decoder_*": "The decoder reconstructs masked images, in pre-training alone.",
    "mask_token": "As the decoder, whose input it is.",
}
