"""Where released names are converted for classes of other libraries, such as timm's own models.

Kept apart from :mod:`common.checkpoints`, since filling a table must not import torch.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

#: ``{models: module that converts}``, see :func:`fits`; ``papers`` fills it from the declarations.
CONVERSIONS: dict[str, str] = {}


def fits(key: str, home: str, architecture: str) -> bool:
    """Whether a key of :data:`CONVERSIONS` names a model.

    Args:
        key: the module of the model's class, and after a colon, where several papers' models are of one class, a
            pattern for timm's name of the architecture: ``timm.models.vision_transformer:deit3_*``.
        home: the module of the model's class.
        architecture: timm's name of it; empty where the model has none.
    """
    module, _, pattern = key.partition(":")
    return module == home and fnmatchcase(architecture, pattern or "*")
