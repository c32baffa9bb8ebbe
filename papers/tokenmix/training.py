"""TokenMix as a hook: it mixes in its own way, and has a teacher say how much of each image's object is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from torch import Tensor, nn

from common.errors import UserError, nearest
from common.training.hooks import Batch, Hook, Training
from common.training.mixing import Mixed, Mixing, require_cutmix
from common.training.optimisation import make_mixing
from common.training.recipe import Recipe
from papers.tokenmix.method import TokenMixing, activation, mix_labels, visible_scores

LABEL_MIXING = ("teacher", "area")
REGIONS = ("blocks", "scattered")
LOSSES = ("cross_entropy", "binary_cross_entropy")


@dataclass(frozen=True)
class TokenMixSettings:
    """The recipe's ``method`` table.

    Attributes:
        label_mixing: ``teacher`` (TokenMix), or ``area``, the share of the tokens.
        region: ``blocks`` or ``scattered``, see `method.TokenMixing`.
        grid: tokens on a side of an image.
        ratio: share of the tokens that are pasted; 0: as mixup draws it.
        extra_tokens: tokens pasted beyond it.
        normalised_scores: see `method.visible_scores`.
        teacher: timm's name of the pretrained teacher; empty where the run is given one.
        loss: ``cross_entropy`` or ``binary_cross_entropy``.

    Raises:
        UserError: a value is none of these, or out of range.
    """

    label_mixing: str
    region: str
    grid: int
    ratio: float
    extra_tokens: int
    normalised_scores: bool
    teacher: str
    loss: str

    def __post_init__(self) -> None:
        for name, known in (("label_mixing", LABEL_MIXING), ("region", REGIONS), ("loss", LOSSES)):
            if (value := getattr(self, name)) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, not {value!r}.{nearest(value, known)}")
        if self.grid < 2:
            raise UserError(f"grid is the number of tokens on a side of an image, at least 2, not {self.grid}.")
        if not 0 <= self.ratio <= 1:
            raise UserError(f"ratio is a share of the tokens between 0 (drawn for each batch) and 1, not {self.ratio}.")
        if self.extra_tokens < 0:
            raise UserError(f"extra_tokens cannot be below 0: {self.extra_tokens}.")


class TokenMix(Hook):
    """Paste parts of tokens; take the label from a teacher's activation on what is seen.

    Attributes:
        teacher: a network as `method.activation` takes it, on the same normalised images; None until it is given or,
            at the start, made by the name in the settings. Labels by area ask for none.

    Raises:
        UserError: at the start, there is no teacher, or it cannot be loaded.
    """

    def __init__(self, settings: TokenMixSettings) -> None:
        self.settings = settings
        if settings.label_mixing == "teacher":
            self.teacher: nn.Module | None = None
        self._run: Training | None = None
        self._mixup: Mixup | None = None

    def start(self, run: Training) -> None:
        """Put this mixing in place of the recipe's, and the teacher on the run's device, frozen."""
        settings, grid = self.settings, (self.settings.grid, self.settings.grid)
        kind = partial(
            TokenMixing, grid=grid, blocks=settings.region == "blocks", ratio=settings.ratio,
            extra_tokens=settings.extra_tokens,
        )  # fmt: skip
        self._run, self._mixup = run, make_mixing(run.recipe, kind)
        run.prepare.mixing = self._mix
        if settings.label_mixing == "teacher":
            if self.teacher is None:
                self.teacher = _pretrained(settings.teacher, run.recipe.num_classes)
            self.teacher.to(run.device).eval().requires_grad_(False)

    def _mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Mixed]:
        """Mix ``images`` (B, C, H, W) in place."""
        assert self._run is not None
        assert self._mixup is not None
        plain = images.clone() if self.settings.label_mixing == "teacher" else images
        images, targets, mixed = Mixing(self._mixup)(images, labels)
        if self.settings.label_mixing == "teacher" and bool((mixed.mask == 1).any()):  # tokens, not mixup
            assert self.teacher is not None
            grid = (self.settings.grid, self.settings.grid)
            with torch.no_grad(), self._run.accelerator.autocast():
                maps = activation(self.teacher, plain, labels, grid)
            region = F.interpolate(mixed.mask[:, None], size=grid, mode="nearest")[:, 0]
            scores = visible_scores(maps, region, self.settings.normalised_scores)
            targets = mix_labels(labels, *scores, self._mixup.num_classes, self._mixup.label_smoothing)
        return images, targets, mixed

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Return the loss of the settings."""
        if self.settings.loss == "cross_entropy":
            return loss
        return F.binary_cross_entropy_with_logits(batch.logits, batch.targets.to(batch.logits.dtype))


def _pretrained(name: str, classes: int) -> nn.Module:
    if not name:
        raise UserError(
            "TokenMix asks a teacher for the label, and the recipe names none: set method.teacher to one of timm's "
            "pretrained convolutional networks, or method.label_mixing=area."
        )
    try:
        return timm.create_model(name, pretrained=True, num_classes=classes)
    except Exception as error:  # of what downloads, too, which has errors of its own (network, proxy)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"The teacher {name} of TokenMix cannot be loaded ({reason}).") from None


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings, see `TokenMixSettings`.

    Raises:
        UserError: a value is out of range, or the recipe has no CutMix, whose place tokens take.
    """
    method: dict[str, Any] = dict(recipe.method)
    try:
        settings = TokenMixSettings(**method)
    except TypeError as error:
        raise UserError(f"The method table of this recipe is not TokenMix's: {error}.") from None
    require_cutmix(recipe, "TokenMix", "train by another paper's recipe")
    if recipe.mix_mode != "batch":
        raise UserError(f"Tokens are mixed with one region for a batch: set mix_mode=batch, not {recipe.mix_mode}.")
    return (TokenMix(settings),)
