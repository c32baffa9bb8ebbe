"""Files of tensors, of PyTorch, safetensors and NumPy: read without running code from them, named for what they are.

torch does not compare a file's bytes with the check sums that its own format (a zip) has. Files that we wrote are
compared with them, so that a damaged one is told rather than evaluated.
"""

from __future__ import annotations

import argparse
import errno
import json
import pickle
import re
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError

#: What is saved or downloaded under a checkpoint's name in its place, by how its content begins.
_KINDS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE), "an HTML page"),
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS"),
    (re.compile(rb"\x93NUMPY"), "an array of NumPy"),
    (re.compile(rb"\x89HDF\r\n"), "an HDF5 file"),
    (re.compile(rb"\x1f\x8b"), "a gzip archive"),
    (re.compile(rb"(\xef\xbb\xbf)?\s*[{\[]\s*[\"{\]}]"), "a JSON file"),
)
#: A pickle, but for the one of a number by which files of PyTorch before 1.6 begin.
_PICKLE = re.compile(rb"\x80[\x02-\x05](?!(\x95.{8})?\x8a\nl\xfc)", re.DOTALL)
#: How torch begins its refusal of what could run code; all its other refusals are of content that is no pickle.
_OBJECTS = re.compile(r"Unsupported (global|class)|was not an allowed global|Trying to (instantiate|call|set)")
#: How to come to a file that is loaded.
_SAFE = "save its state dict alone with torch.save(checkpoint['model'], ...)"


class UnreadableError(UserError):
    """A file is not what it should be.

    Attributes:
        reason: what is wrong with it, a clause whose subject is the file: ``"is empty"``.
    """

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{path} {reason}; {remedy}.")
        self.reason = reason


def read_tensors(path: Path, *, check: bool = False) -> Any:
    """The content of a file of PyTorch, or ``{name: tensor}`` of one of safetensors or NumPy (.npz); on the CPU.

    Args:
        path: of the file.
        check: compare its content with the check sums in it.

    Raises:
        UnreadableError: the file is damaged, of another kind, or holds more than tensors and plain values.
    """
    again = "get it again"
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if not start:
            raise UnreadableError(path, "is empty", again)
        if _is_safetensors(path, start):
            return _read_safetensors(path)
        kind = next((kind for pattern, kind in _KINDS if pattern.match(start)), None)
        if kind is not None:
            raise UnreadableError(path, f"is {kind}, not a checkpoint", f"{again}, as the file itself")
        if _PICKLE.match(start):
            raise UnreadableError(path, "is a pickle of Python objects and is not loaded for safety", _SAFE)
        if _is_npz(path):
            return _read_npz(path)
        if check:
            _compare(path)
        # Training scripts often store their command line next to the weights.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about protocols, where the content is no pickle at all
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _OBJECTS.search(str(error)):
            raise UnreadableError(
                path, "holds Python objects beside tensors and is not loaded for safety", _SAFE
            ) from None
        raise UnreadableError(path, "is not a PyTorch checkpoint or is damaged", again) from None
    except (RuntimeError, EOFError, ValueError, LookupError, AssertionError, AttributeError, TypeError) as error:
        raise UnreadableError(path, "is not a PyTorch checkpoint or is damaged", again) from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise UnreadableError(path, "is damaged", again) from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # torch looks for what is beyond the end
            raise UnreadableError(path, "is damaged", again) from None
        raise UnreadableError(path, f"cannot be read ({error.strerror or error})", again) from error


def check_sums(path: Path) -> None:
    """Compare the content of a file of PyTorch with the check sums in it.

    Raises:
        UnreadableError: they differ.
    """
    try:
        _compare(path)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise UnreadableError(path, "is damaged", "get it again") from error


def _compare(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return  # of PyTorch before 1.6, without check sums, or no checkpoint at all, which torch will say
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise UnreadableError(path, f"is damaged (in {damaged.rpartition('/')[2]})", "get it again")


def _is_safetensors(path: Path, start: bytes) -> bool:
    """Whether the file is of safetensors: eight bytes of a length, and a header in JSON that is so long."""
    if path.suffix == ".safetensors":
        return next((False for pattern, _ in _KINDS[:2] if pattern.match(start)), True)
    length = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and 8 + length <= path.stat().st_size


def _is_npz(path: Path) -> bool:
    """Whether the file is an archive of NumPy's, a zip like PyTorch's."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_npz(path: Path) -> dict[str, torch.Tensor]:
    _compare(path)
    tensors = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            try:
                tensors[name] = torch.from_numpy(arrays[name])
            except ValueError:  # what NumPy would have to unpickle
                raise UnreadableError(
                    path, f"holds Python objects ({name}) and is not loaded for safety", "save plain arrays alone"
                ) from None
            except TypeError:
                kind = arrays[name].dtype
                raise UnreadableError(
                    path, f"holds {name} as {kind}, which PyTorch does not have", "save it as float32"
                ) from None
    return tensors


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise UnreadableError(path, "is not a file of safetensors or is damaged", "get it again") from error
