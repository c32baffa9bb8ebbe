"""Per-image records on disk: what makes an evaluation resumable, divisible among processes, and small in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import write_atomic


class CellRecord:
    """The numbers recorded of each image in one cell: an ``.npy`` file ``(N, columns + 1)`` of float32.

    An image that has not been evaluated is a row of NaN, so a file is complete when it has none, processes write
    their own rows into the same file, and an interrupted run goes on with the rows that are left, whatever the batch
    size or the number of processes. The last column has the bits of a check sum of the others; a row that does not
    agree with its own counts as not evaluated. The file is mapped, not loaded.

    Args:
        path: of the file.
        columns: names of the recorded numbers.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)
        self._rows: np.ndarray | None = None

    def create(self, images: int) -> bool:
        """Make the file for so many images unless it exists; returns whether there was one that cannot be read."""
        exists = self.path.exists()
        if not exists or self._mapped() is None:
            empty = np.full((images, len(self.columns) + 1), np.nan, dtype=np.float32)
            write_atomic(self.path, lambda file: np.save(file, empty))
            return exists
        return False

    def open(self, images: int) -> int:
        """Map the file for writing and check that it fits.

        Returns:
            How many images have numbers that do not agree with their check sum: damaged, or cut off in writing.
        """
        rows = self._mapped()
        if rows is None:
            raise UserError(f"{self.path} is damaged; delete it to evaluate this cell again.")
        if rows.shape != (images, len(self.columns) + 1):
            known = rows.ndim == 2 and rows.shape[1] == len(self.columns) + 1
            reason = f"{len(rows)} images where the data set has {images}" if known else "another version"
            raise UserError(f"{self.path} is of {reason}; choose another --output.")
        self._rows = rows
        return int((self.pending() & ~np.isnan(self.rows).any(axis=1)).sum())

    def _mapped(self) -> np.ndarray | None:
        """The file mapped for writing, or None where it is not what we write."""
        try:
            rows = np.load(self.path, mmap_mode="r+")
        except (OSError, ValueError, EOFError, SyntaxError, TypeError):
            return None
        return rows if rows.dtype == np.float32 and rows.flags.c_contiguous else None

    @property
    def rows(self) -> np.ndarray:
        """``(N, columns)``, mapped."""
        return self._whole[:, :-1]

    @property
    def _whole(self) -> np.ndarray:
        if self._rows is None:
            raise RuntimeError(f"{self.path} has not been opened")
        return self._rows

    def pending(self, positions: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Which of these rows have not been evaluated, bool."""
        values, stated = self.rows[positions], self._whole.view(np.uint32)[positions, -1]
        return np.isnan(values).any(axis=1) | (stated != _sums(values, np.arange(len(self._whole))[positions]))

    def write(self, positions: np.ndarray, values: np.ndarray) -> None:
        """Record the numbers of some images; NaN and infinity are refused, since NaN means not evaluated."""
        if not np.isfinite(values).all():
            raise UserError(
                f"{self.path.stem}: the model's outputs are not finite numbers; check weights and precision."
            )
        values = values.astype(np.float32)
        self.rows[positions] = values
        self._whole.view(np.uint32)[positions, -1] = _sums(values, positions)

    def flush(self) -> None:
        """Bring what was written to disk."""
        if isinstance(self._rows, np.memmap):
            self._rows.flush()

    def table(self) -> dict[str, np.ndarray]:
        """Column name to ``(N,)``.

        Raises:
            UserError: some images have not been evaluated.
        """
        left = int(self.pending().sum())
        if left:
            raise UserError(
                f"{self.path}: {left} images are not evaluated; run the same command again, and let all processes "
                "write to one folder."
            )
        return {name: self.rows[:, index] for index, name in enumerate(self.columns)}


def _sums(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A check sum of each row of float32 ``values`` (B, columns) and its place in the file, uint32 (B,).

    Multilinear hashing: the upper half of a sum of 32-bit words times 64-bit factors, modulo 2^64.
    """
    words = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    total = positions.astype(np.uint64) * _factor(0) + _factor(1)
    for column in range(words.shape[1]):
        total = total + words[:, column] * _factor(column + 2)
    return (total >> np.uint64(32)).astype(np.uint32)


def _factor(number: int) -> np.uint64:
    """An odd number of 64 bits, always the same for ``number``."""
    return np.uint64(int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:8], "big") | 1)
