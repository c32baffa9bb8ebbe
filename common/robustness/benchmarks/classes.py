"""Which classes of a 1,000-class ImageNet model the labels of a benchmark set mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo
from torch import Tensor

from common.errors import UserError

#: Number of classes of an ImageNet-1k model.
IMAGENET_CLASSES = 1000


@lru_cache(maxsize=1)
def imagenet_wnids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet-1k's classes in the order of a model's outputs (sorted, as folders are)."""
    return tuple(ImageNetInfo("imagenet-1k").label_names())


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("classes.json").read_text())


def subset(name: str) -> dict[str, int]:
    """WordNet id to model output of a benchmark with fewer classes, in the order of its labels.

    Args:
        name: ``imagenet-a``, ``imagenet-o`` or ``imagenet-r``, 200 classes each.
    """
    index = {wnid: i for i, wnid in enumerate(imagenet_wnids())}
    return {wnid: index[wnid] for wnid in _tables()[name]["wnids"]}


def sixteen_classes() -> dict[str, list[int]]:
    """The 16 categories of the cue conflict images, each with its ImageNet classes (207 in all)."""
    return _tables()["sixteen"]["indices"]


def sixteen_class_scores(logits: Tensor) -> Tensor:
    """Mean softmax probability of the ImageNet classes of each of the 16 categories.

    A mean rather than a sum, as released (Geirhos et al., arXiv 1811.12231), so that a category with many classes
    has no advantage; the 793 other classes take part in the softmax.

    Args:
        logits: ``(B, 1000)``.

    Returns:
        ``(B, 16)`` in the order of ``sixteen_classes``.
    """
    probabilities = logits.softmax(1)
    return torch.stack([probabilities[:, indices].mean(1) for indices in sixteen_classes().values()], dim=1)


def objectnet_classes(mappings: Path) -> dict[str, list[int]]:
    """ObjectNet folder to ImageNet classes, for the objects that ImageNet has (113 of 313), from its own mappings.

    Args:
        mappings: the folder ``mappings`` of the data set.
    """

    def read(name: str) -> Any:
        try:
            text = (mappings / name).read_text(encoding="utf-8")
            return json.loads(text) if name.endswith(".json") else text.splitlines()
        except (OSError, ValueError):
            raise UserError(
                f"{mappings / name} is missing or damaged; ObjectNet's own folder 'mappings' is needed."
            ) from None

    labels: Mapping[str, str] = read("folder_to_objectnet_label.json")
    shared: Mapping[str, str] = read("objectnet_to_imagenet_1k.json")
    order: Mapping[str, int] = read("pytorch_to_imagenet_2012_id.json")
    names: Sequence[str] = read("imagenet_to_label_2012_v2")
    try:
        # The lines of the names are in the order of ImageNet's 2012 ids, not of model outputs.
        output = {names[line].strip(): int(index) for index, line in order.items()}
        return {
            folder: [output[name.strip()] for name in shared[label].split(";")]
            for folder, label in labels.items()
            if label in shared
        }
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        raise UserError(
            f"the tables in {mappings} do not fit together; restore ObjectNet's own folder 'mappings'."
        ) from None
