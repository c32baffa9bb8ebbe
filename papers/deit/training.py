"""What DeiT III changes about training beside its settings: the loss, and two constants of its networks.

Touvron et al., "DeiT III: Revenge of the ViT", ECCV 2022, arXiv 2204.07118; values are those of the released commands.
Distillation, which is DeiT's own, is a setting of every recipe, see `common.training.distillation`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from timm.layers import DropPath, LayerScale
from torch import Tensor, nn

from common.errors import UserError, nearest
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe

LOSSES = ("cross_entropy", "binary_cross_entropy")
DROP_PATHS = ("linear", "constant")


class BinaryCrossEntropy(Hook):
    """A yes or no for each class, mean over images and classes: yes for every class that is mixed into an image."""

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Return this loss in place of the cross-entropy."""
        logits, targets = batch.logits, batch.targets
        shares = F.one_hot(targets, logits.shape[1]) if targets.ndim == 1 else targets
        return F.binary_cross_entropy_with_logits(logits, (shares > 0).to(logits.dtype))


class ConstantDropPath(Hook):
    """Drop all residual branches with the recipe's rate, where timm's rates rise from 0 to it over the blocks."""

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Set the rate of every block."""
        for block in getattr(model, "blocks"):  # noqa: B009  (typed as tensors and modules only)
            block.drop_path1, block.drop_path2 = (DropPath(run.recipe.drop_path_rate) for _ in range(2))


class InitialLayerScale(Hook):
    """Start the scales of the residual branches at ``value``."""

    def __init__(self, value: float) -> None:
        self.value = value

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Set the scales; a run that is resumed takes its own after that."""
        for module in model.modules():
            if isinstance(module, LayerScale):
                nn.init.constant_(module.gamma, self.value)


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hooks of a recipe's method settings; a recipe without any has none.

    ``loss``: one of `LOSSES`. ``drop_path``: how the rate depends on the depth, one of `DROP_PATHS`. ``layer_scale``:
    what scales start at; 0 leaves them as they are, for weights that have been trained.

    Raises:
        UserError: a word that is not one of these, or a negative scale.
    """
    if not recipe.method:
        return ()
    loss, drop_path = str(recipe.method["loss"]), str(recipe.method["drop_path"])
    for key, word, words in (("loss", loss, LOSSES), ("drop_path", drop_path, DROP_PATHS)):
        if word not in words:
            raise UserError(f"method.{key} must be one of {', '.join(words)}, not {word!r}.{nearest(word, words)}")
    scale = float(recipe.method["layer_scale"])
    if scale < 0:
        raise UserError(f"method.layer_scale is what scales start at, 0 to leave them; it cannot be {scale:g}.")
    chosen: list[Hook] = []
    if loss == "binary_cross_entropy":
        chosen.append(BinaryCrossEntropy())
    if drop_path == "constant":
        chosen.append(ConstantDropPath())
    if scale:
        chosen.append(InitialLayerScale(scale))
    return chosen
