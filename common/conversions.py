"""Where released names are converted for classes of other libraries, such as timm's own models.

Kept apart from :mod:`common.checkpoints`, since filling a table must not import torch.
"""

from __future__ import annotations

#: ``{module of the class: module that converts}``; ``papers`` fills it from the declarations.
CONVERSIONS: dict[str, str] = {}
