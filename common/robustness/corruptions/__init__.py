"""The corruptions of ImageNet-C and CIFAR-10-C, computed on the fly on batches of images.

``corrupt(images, name, severity)`` is all that most code needs.
"""

from .engine import STORED_QUALITY, corrupt
from .parameters import CORRUPTIONS, EXTRA, GROUPS, LARGEST_SMALL_IMAGE, SEVERITIES, parameters_for, scale_for
from .transform import Corrupt

__all__ = [
    "CORRUPTIONS",
    "EXTRA",
    "GROUPS",
    "LARGEST_SMALL_IMAGE",
    "SEVERITIES",
    "STORED_QUALITY",
    "Corrupt",
    "corrupt",
    "parameters_for",
    "scale_for",
]
