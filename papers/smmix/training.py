"""SMMix as a hook: a pass on the unmixed images first, by whose attention they are mixed, and two terms in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.mixup import mixup_target
from torch import Tensor, nn

from common.attention import LastAttention
from common.errors import UserError
from common.training.hooks import Batch, Hook, Training
from common.training.mixing import Mixed, require_cutmix
from common.training.recipe import Recipe
from papers.smmix.method import (
    consistency_loss,
    corners,
    fine_grained_loss,
    paste,
    random_corners,
    window_attention,
)


class SMMix(Hook):
    """Mix by attention, and learn from parts and from consistency.

    Args:
        sides: smallest and largest side of a window, as shares of the image's.
        max_min: paste the region of largest attention on that of smallest, or else a random window, as CutMix does.
        fine_grained: have the patches of both parts learn their own label.
        consistency: draw the output to the mixture of those for the unmixed images.

    Raises:
        UserError: ``sides`` are out of range; at the start, the model has no attention that can be read, or lacks the
            second head.
    """

    def __init__(
        self, sides: tuple[float, float], max_min: bool = True, fine_grained: bool = True, consistency: bool = True
    ) -> None:
        if not 0 < sides[0] <= sides[1] < 1:
            raise UserError(f"sides are a range of shares above 0 and below 1, not {sides[0]} to {sides[1]}.")
        self.sides, self.max_min, self.fine_grained, self.consistency = sides, max_min, fine_grained, consistency
        self._unmixed: Tensor | None = None  # logits for the images before they were mixed by regions
        self._tokens: Tensor | None = None
        self._handles: list[Any] = []

    def start(self, run: Training) -> None:
        """Listen to attention and patches, and put this mixing in place of the recipe's."""
        model: Any = run.plain_model
        if self.fine_grained and not (hasattr(model, "token_head") and hasattr(model, "norm")):
            raise UserError(
                f"{type(model).__name__} has no token_head, by which SMMix's patches learn: take a model of this "
                "paper, or set method.fine_grained=false."
            )
        self._run, self._recipe, self._model = run, run.recipe, model
        self._attention = LastAttention(model, token=None)
        if self.fine_grained:
            self._handles.append(model.norm.register_forward_hook(self._keep_tokens))
        run.prepare.mixing = self._mix

    def _keep_tokens(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self._tokens = output

    def _mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Mixed]:
        """Mix ``images`` (B, C, H, W): by regions, by mixup, or not at all, as the recipe's probabilities say."""
        recipe = self._recipe
        first = mixup_target(labels, recipe.num_classes, smoothing=recipe.label_smoothing)
        mask = torch.zeros_like(images[:, 0])
        mixed_at_all, by_region = np.random.rand(2)  # noqa: NPY002 (as timm's mixing draws)
        if mixed_at_all < recipe.mix_probability:
            if not recipe.mixup or by_region < recipe.mix_switch_probability:
                images, mask = self._mix_regions(images)
            else:
                mask += float(np.random.beta(recipe.mixup, recipe.mixup))  # noqa: NPY002
                images = images.lerp(images.flip(0), mask[:, None])
        mixed = Mixed(first, first.flip(0), mask)
        return images, mixed.labels(mixed.share), mixed

    def _mix_regions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        training = self._model.training
        self._model.eval()
        with torch.no_grad(), self._run.accelerator.autocast():
            self._unmixed = self._model(images).float()
        self._model.train(training)
        attention = self._attention.take(*images.shape[2:])
        grid = (attention.shape[1], attention.shape[2])
        low, high = (int(share * min(grid)) for share in self.sides)
        side = int(np.random.randint(max(low, 1), high + 1))  # noqa: NPY002
        if self.max_min:
            scores = window_attention(attention, side)
            source, target = corners(scores, largest=True), corners(scores, largest=False)
        else:
            source = target = random_corners(attention, side)
        return paste(images, source, target, side, grid)

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Add both terms for a batch that was mixed by regions."""
        if hasattr(self._model, "token_head"):
            # So that a distributed run finds a gradient of every parameter in every step.
            loss = loss + 0 * sum(parameter.sum() for parameter in self._model.token_head.parameters())
        unmixed, self._unmixed = self._unmixed, None
        if unmixed is None or batch.mixed is None:
            return loss
        if self.fine_grained:
            assert self._tokens is not None
            tokens = self._tokens[:, int(getattr(self._model, "num_prefix_tokens", 0)) :]
            with run.accelerator.autocast():
                loss = loss + fine_grained_loss(
                    tokens, _at_patches(batch.mixed.mask, tokens), self._model.token_head, batch.mixed.first,
                    batch.mixed.second,
                )  # fmt: skip
        if self.consistency:
            loss = loss + consistency_loss(batch.logits.float(), unmixed, batch.mixed.share)
        return loss

    def finish(self, run: Training) -> None:
        """Leave the model as it was."""
        if hasattr(self, "_attention"):
            self._attention.close()
        for handle in self._handles:
            handle.remove()
        self._tokens = self._unmixed = None


def _at_patches(mask: Tensor, tokens: Tensor) -> Tensor:
    """The mask (B, H, W) at the patches of tokens (B, N, C): (B, N)."""
    rows = round((tokens.shape[1] * mask.shape[1] / mask.shape[2]) ** 0.5)
    size = (rows, tokens.shape[1] // rows)
    return F.interpolate(mask[:, None], size=size, mode="nearest")[:, 0].flatten(1).to(tokens.dtype)


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings: ``smallest_side``, ``largest_side``, and the parts of `SMMix` by name.

    Raises:
        UserError: a value is out of range, or the recipe has no CutMix, whose place regions take.
    """
    method = recipe.method
    require_cutmix(recipe, "SMMix", "train by another paper's recipe")
    if recipe.mix_mode != "batch":
        raise UserError(f"SMMix mixes with one side of regions for a batch: set mix_mode=batch, not {recipe.mix_mode}.")
    return (
        SMMix(
            (float(method["smallest_side"]), float(method["largest_side"])),
            max_min=bool(method["max_min"]),
            fine_grained=bool(method["fine_grained"]),
            consistency=bool(method["consistency"]),
        ),
    )
