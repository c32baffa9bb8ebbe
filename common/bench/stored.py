"""What the bench makes once and keeps in the data folder, under a check sum of all that it is made by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.fashion_mnist import data_folder, load_fashion_mnist
from common.files import write_atomic
from common.parallel import side_by_side


def check_sum(*sources: str) -> str:
    """Of the embedded data and of source files, 16 digits: what is made by other code has another name."""
    total = hashlib.sha256(repr(sorted(load_fashion_mnist().checksums.items())).encode())
    for source in sources:
        total.update(Path(source).read_bytes())
    return total.hexdigest()[:16]


def place(name: str, version: str, ending: str) -> Path:
    """The file in the data folder, whether or not it is there."""
    return data_folder() / "bench" / f"{name}-{version}.{ending}"


def stored(name: str, version: str, make: Callable[[int], Tensor], shares: int) -> Tensor:
    """A tensor from its file, mapped into memory; made where there is none.

    Args:
        name: what it is, for file and progress.
        version: see `check_sum`.
        make: a function of a module that makes a share of it, by the share's number; shares are joined along the first
            axis.
        shares: how many; they are made side by side.
    """
    path = place(name, version, "npy")
    if not path.exists():
        made = list(side_by_side(make, range(shares), f"making {name}, once"))
        write_atomic(path, partial(np.save, arr=torch.cat(made).numpy()))
    # Copy-on-write, since torch takes no array that cannot be written; nobody writes, so nothing is copied.
    return torch.from_numpy(np.load(path, mmap_mode="c"))
