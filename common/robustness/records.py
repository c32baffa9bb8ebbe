"""Per-image records on disk: what makes an evaluation resumable, divisible among processes, and small in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import write_atomic


class CellRecord:
    """The numbers recorded of each image in one cell: an ``.npy`` file ``(N, columns)`` of float32.

    An image that has not been evaluated is a row of NaN, so a file is complete when it has none, processes write
    their own rows into the same file, and an interrupted run goes on with the rows that are left, whatever the batch
    size or the number of processes. The file is mapped, not loaded.

    Args:
        path: of the file.
        columns: names of the recorded numbers.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)
        self._rows: np.ndarray | None = None

    def create(self, images: int) -> None:
        """Make the file for so many images unless it exists."""
        if not self.path.exists():
            empty = np.full((images, len(self.columns)), np.nan, dtype=np.float32)
            write_atomic(self.path, lambda file: np.save(file, empty))

    def open(self, images: int) -> None:
        """Map the file for writing and check that it fits."""
        try:
            rows = np.load(self.path, mmap_mode="r+")
        except (OSError, ValueError, EOFError):
            raise UserError(f"{self.path} is damaged; delete it to evaluate this cell again.") from None
        if rows.shape != (images, len(self.columns)):
            raise UserError(
                f"{self.path} is of {rows.shape[0]} images where the data set has {images}; the data set has changed, "
                "choose another --output."
            )
        self._rows = rows

    @property
    def rows(self) -> np.ndarray:
        """``(N, columns)``, mapped."""
        if self._rows is None:
            raise RuntimeError(f"{self.path} has not been opened")
        return self._rows

    def pending(self, positions: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Which of these rows have not been evaluated, bool."""
        return np.isnan(self.rows[positions]).any(axis=1)

    def write(self, positions: np.ndarray, values: np.ndarray) -> None:
        """Record the numbers of some images; NaN and infinity are refused, since NaN means not evaluated."""
        if not np.isfinite(values).all():
            raise UserError(
                f"{self.path.stem}: the model's outputs are not finite numbers; check weights and precision."
            )
        self.rows[positions] = values

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
