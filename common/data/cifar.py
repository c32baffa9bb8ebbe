"""CIFAR-10 and CIFAR-100, found where the user says, as torchvision keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from timm.data import create_dataset
from torch import Tensor

from common.errors import UserError, nearest

#: Classes of each data set, by timm's name.
CLASSES = {"torch/cifar10": 10, "torch/cifar100": 100}


def load_cifar(name: str, root: Path, *, train: bool, download: bool = False) -> tuple[Tensor, Tensor]:
    """Return the images, uint8 (N, 3, 32, 32), and labels, int64 (N,), of one part of a data set.

    Args:
        name: ``torch/cifar10`` or ``torch/cifar100``.
        root: the folder that holds ``cifar-10-batches-py`` or ``cifar-100-python``.
        train: the 50,000 training images; otherwise the 10,000 test images.
        download: fetch and unpack the data set there first, where it is missing.

    Raises:
        UserError: the name is unknown, or the data set is not there, damaged, or cannot be fetched.
    """
    if name not in CLASSES:
        raise UserError(f"{name} is no CIFAR data set.{nearest(name, CLASSES)}")
    split = "train" if train else "validation"
    try:
        dataset = create_dataset(name, root=str(root), split=split, is_training=train, download=download)
    except (RuntimeError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"{name} cannot be read from {root} ({reason}); name the folder that holds it, or let train fetch it with "
            "--download."
        ) from None
    images = np.asarray(getattr(dataset, "data"))  # noqa: B009 (timm's annotation is the bare Dataset)
    labels = torch.tensor(getattr(dataset, "targets"))  # noqa: B009
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels
