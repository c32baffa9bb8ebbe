"""Names, groups and parameters of the corruptions."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from common.errors import UserError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The 15 corruptions of ImageNet-C by group, and the group of its 4 extra ones (held out for validation).
GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
#: The 15 corruptions that mCE is computed over, in the order of the paper.
CORRUPTIONS: tuple[str, ...] = tuple(name for group in list(GROUPS)[:-1] for name in GROUPS[group])
#: The 4 extra corruptions.
EXTRA: tuple[str, ...] = GROUPS["extra"]
#: Severities, mildest first.
SEVERITIES: tuple[int, ...] = (1, 2, 3, 4, 5)
#: Images whose longer side is at most this take the 32-pixel parameters (CIFAR-10-C) unless told otherwise.
LARGEST_SMALL_IMAGE = 64

Parameters = Mapping[str, float]


@cache
def _tables() -> dict[str, dict[str, dict[str, list[float]]]]:
    with Path(__file__).with_name("parameters.toml").open("rb") as file:
        return tomllib.load(file)


def check_name(name: str) -> str:
    """Return ``name`` if it is a corruption's.

    Raises:
        UserError: it is not; the message names the nearest one.
    """
    known = CORRUPTIONS + EXTRA
    if name not in known:
        raise UserError(f"There is no corruption {name!r}.{nearest(str(name), known)} Known: {', '.join(known)}.")
    return name


def parameters_for(name: str, severity: int, scale: str) -> Parameters:
    """The parameters of a corruption.

    Args:
        name: one of ``CORRUPTIONS`` or ``EXTRA``.
        severity: 1 to 5.
        scale: ``"imagenet"`` (made for 224-pixel images) or ``"cifar"`` (for 32 pixels).

    Raises:
        UserError: an unknown name, severity or scale.
    """
    check_name(name)
    if severity not in SEVERITIES:
        raise UserError(f"Severity is {severity!r}; give 1, 2, 3, 4 or 5.")
    tables = _tables()
    if scale not in tables:
        raise UserError(f"Corruption parameters are {scale!r}; give {' or '.join(tables)}.")
    return {key: values[int(severity) - 1] for key, values in tables[scale][name].items()}


def scale_for(height: int, width: int) -> str:
    """Which parameters an image takes: ``"cifar"`` up to ``LARGEST_SMALL_IMAGE`` pixels, else ``"imagenet"``."""
    return "cifar" if max(height, width) <= LARGEST_SMALL_IMAGE else "imagenet"
