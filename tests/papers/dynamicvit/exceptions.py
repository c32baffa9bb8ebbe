"""What ``tests/test_timm.py`` does not ask of this paper's models, and why."""

_DROPPED = "Tokens that were dropped leave no map; a sparsified ConvNeXt or Swin has maps."
WITHOUT_MAPS = {"dynamicvit_deit_*": _DROPPED, "dynamicvit_lvvit_*": _DROPPED}
