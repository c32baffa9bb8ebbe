"""TransMix as a hook: targets are mixed anew after the forward pass, by the attention of that pass."""

from __future__ import annotations

from collections.abc import Sequence

from common.attention import LastAttention
from common.errors import UserError, nearest
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe
from papers.transmix.method import mix_labels

LABEL_MIXING = ("attention", "area")


class TransMix(Hook):
    """Mix labels by attention.

    Args:
        area_share: weight of the area against that of the attention, in [0, 1]; see `method.mix_labels`.

    Raises:
        UserError: ``area_share`` is out of range; at the start, the model has no attention that can be read.
    """

    def __init__(self, area_share: float = 0.5) -> None:
        if not 0 <= area_share <= 1:
            raise UserError(f"area_share is a weight between 0 (attention alone) and 1 (area alone), not {area_share}.")
        self.area_share = area_share
        self._attention: LastAttention | None = None

    def start(self, run: Training) -> None:
        """Listen to the model's last attention."""
        self._attention = LastAttention(run.plain_model)

    def on_output(self, run: Training, batch: Batch) -> None:
        """Put the labels in place of those by area."""
        if batch.mixed is None or self._attention is None:
            return
        attention = self._attention.take(*batch.images.shape[-2:])
        batch.targets = mix_labels(batch.mixed, attention, self.area_share)

    def finish(self, run: Training) -> None:
        """Leave the model as it was."""
        if self._attention is not None:
            self._attention.close()


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hooks of a recipe's method settings.

    ``label_mixing``: ``attention`` (TransMix) or ``area`` (CutMix, for comparison); ``area_share``: see `TransMix`.

    Raises:
        UserError: a value that is not one of these, or a recipe without CutMix, where there is nothing to attend to.
    """
    kind, area_share = str(recipe.method["label_mixing"]), float(recipe.method["area_share"])
    if kind not in LABEL_MIXING:
        raise UserError(
            f"label_mixing must be one of {', '.join(LABEL_MIXING)}, not {kind!r}.{nearest(kind, LABEL_MIXING)}"
        )
    if kind == "area":
        return ()
    if not recipe.mixes or not recipe.cutmix or not (recipe.mix_switch_probability or not recipe.mixup):
        raise UserError(
            "TransMix mixes the labels of CutMix, which this recipe never does: set cutmix, mix_probability and "
            "mix_switch_probability above 0, or method.label_mixing=area."
        )
    return (TransMix(area_share),)
