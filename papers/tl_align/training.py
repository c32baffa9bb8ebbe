"""TL-Align as a hook: CutMix of whole tokens, whose labels follow the attention of the pass that is made anyway."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from common.errors import UserError, nearest
from common.training.hooks import Batch, Hook, Training
from common.training.mixing import Mixing, require_cutmix
from common.training.optimisation import make_mixing
from common.training.recipe import Recipe
from papers.tl_align.method import TokenBoxes, TokenLabels, token_labels

LABEL_MIXING = ("aligned", "area")


class TLAlign(Hook):
    """Mix whole tokens, and align labels with them.

    Args:
        grid: tokens on a side of an image; boxes consist of them.
        aligned: take the aligned share in the label, or else the area.

    Attributes:
        share: the aligned share (B,) of the partner in the last batch that was mixed; None before.

    Raises:
        UserError: at the start, labels cannot be followed through the model.
    """

    def __init__(self, grid: int, aligned: bool = True) -> None:
        self.grid, self.aligned = grid, aligned
        self.share: Tensor | None = None
        self._labels: TokenLabels | None = None

    def start(self, run: Training) -> None:
        """Listen to the model's attention, and put this mixing in place of the recipe's."""
        self._labels = token_labels(run.plain_model) if self.aligned else None
        mixup = make_mixing(run.recipe, partial(TokenBoxes, grid=(self.grid, self.grid)))
        assert mixup is not None, "require_cutmix"
        run.prepare.mixing = Mixing(mixup)

    def on_output(self, run: Training, batch: Batch) -> None:
        """Put the aligned labels in place of those by area."""
        if batch.mixed is None or self._labels is None:
            return
        self.share = self._labels.take(batch.mixed.mask)
        batch.targets = batch.mixed.labels(self.share)

    def finish(self, run: Training) -> None:
        """Leave the model as it was."""
        if self._labels is not None:
            self._labels.close()


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings.

    ``label_mixing``: ``aligned`` (TL-Align) or ``area`` (CutMix of whole tokens, for comparison); ``grid``: tokens on a
    side of an image.

    Raises:
        UserError: a value that is not one of these, or a recipe without CutMix.
    """
    kind, grid = str(recipe.method["label_mixing"]), int(recipe.method["grid"])
    if kind not in LABEL_MIXING:
        raise UserError(
            f"label_mixing must be one of {', '.join(LABEL_MIXING)}, not {kind!r}.{nearest(kind, LABEL_MIXING)}"
        )
    if grid < 2:
        raise UserError(f"grid is the number of tokens on a side of an image, at least 2, not {grid}.")
    require_cutmix(recipe, "TL-Align", "train by another paper's recipe")
    if recipe.mix_mode != "batch":
        raise UserError(f"Tokens are mixed with one box for a batch: set mix_mode=batch, not {recipe.mix_mode}.")
    return (TLAlign(grid, kind == "aligned"),)
