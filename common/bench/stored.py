"""What the bench makes once and keeps in the data folder, under a check sum of all that it is made by."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.fashion_mnist import data_folder, load_fashion_mnist
from common.files import write_atomic
from common.parallel import side_by_side
from common.progress import console


def check_sum(*sources: str | Path, text: str = "") -> str:
    """Of the embedded data, of source files and of a text, 16 digits: what is made by other code has another name."""
    total = hashlib.sha256(repr(sorted(load_fashion_mnist().checksums.items())).encode())
    for source in sources:
        total.update(Path(source).read_bytes())
    total.update(text.encode())
    return total.hexdigest()[:16]


def place(name: str, version: str, ending: str) -> Path:
    """The file in the data folder, whether or not it is there."""
    return data_folder() / "bench" / f"{name}-{version}.{ending}"


def stored(name: str, version: str, make: Callable[[int], Tensor], shares: int) -> Tensor:
    """A tensor from its file, mapped into memory; made where there is none, or a damaged one.

    Args:
        name: what it is, for file and progress.
        version: see `check_sum`.
        make: a function of a module that makes a share of it, by the share's number; shares are joined along the first
            axis.
        shares: how many; they are made side by side.
    """
    start = f"{name}-{version}"
    path = next((path for path in (data_folder() / "bench").glob(f"{start}-*.npy") if _is_whole(path)), None)
    if path is None:
        made = list(side_by_side(make, range(shares), f"making {name}, once"))
        content = io.BytesIO()
        np.save(content, torch.cat(made).numpy())
        path = data_folder() / "bench" / f"{start}-{zlib.crc32(content.getbuffer()):08x}.npy"
        write_atomic(path, content.getvalue())
    # Copy-on-write, since torch takes no array that cannot be written; nobody writes, so nothing is copied.
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _is_whole(path: Path) -> bool:
    """Whether a file has the check sum by which its name ends; says where it has not."""
    if path.stem.rpartition("-")[2] == f"{zlib.crc32(path.read_bytes()):08x}":
        return True
    console.print(f"{path} is damaged; it is made anew.", highlight=False, soft_wrap=True)
    return False
