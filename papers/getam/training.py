"""Single-stage training: first a classifier, then maps, pseudo labels and a segmentation network in every step.

In the second part each step goes backwards twice: from the logits of classes to the attention maps, for the pseudo
labels, and from the losses to the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from common.attention import token_grid
from common.errors import UserError, nearest
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe
from papers.getam.labels import IGNORED, normalised, pseudo_labels
from papers.getam.losses import balanced_cross_entropy, dense_energy, saliency_loss
from papers.getam.method import class_activation, class_maps
from papers.getam.refinement import refine

#: From the numbers of images (B,) to their image-level labels (B, K) and what is salient in them (B, H, W), bool.
Supervision = Callable[[Tensor], tuple[Tensor, Tensor]]

SALIENCY = ("salient", "released", "none")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of a recipe's method table.

    Attributes:
        classification_share: of the steps that train the classifier alone.
        power: of the polynomial by which a constant learning rate falls to 0; 0 leaves the rate to the schedule.
        segmentation_rate: by what that rate is multiplied in the steps that train both.
        start_layer: first layer whose attention counts.
        iterations, dilations: of the refinement; see `refinement.refine`.
        cut: of the completion; 0 does not complete. See `labels.pseudo_labels`.
        opening: side of the square that must fit into an object, in pixels.
        saliency: what saliency teaches the network: ``salient``, background where nothing is salient nor completed;
            ``released``, background everywhere but where completion acted; ``none``, nothing.
        energy_weight, energy_scale, sigma_rgb, sigma_xy: of the dense energy; see `losses.dense_energy`.

    Raises:
        UserError: a value is out of range.
    """

    classification_share: float
    power: float
    segmentation_rate: float
    start_layer: int
    iterations: int
    dilations: Sequence[int]
    cut: float
    opening: int
    saliency: str
    energy_weight: float
    energy_scale: float
    sigma_rgb: float
    sigma_xy: float

    def __post_init__(self) -> None:
        if self.saliency not in SALIENCY:
            raise UserError(
                f"saliency must be one of {', '.join(SALIENCY)}, not {self.saliency!r}."
                f"{nearest(self.saliency, SALIENCY)}"
            )
        for key in ("classification_share", "cut"):
            if not 0 <= getattr(self, key) < 1:
                raise UserError(f"{key} lies in [0, 1), not at {getattr(self, key)}: set method.{key}.")
        if self.power < 0 or (not self.power and self.segmentation_rate != 1):
            raise UserError(
                "A schedule's own rate is not changed: set method.power above 0 with schedule=constant, or "
                "method.segmentation_rate=1."
            )
        if self.start_layer < 0:
            raise UserError(f"Layers count from 0, not from {self.start_layer}: set method.start_layer.")
        for key in ("energy_scale", "sigma_rgb", "sigma_xy"):
            if getattr(self, key) <= 0:
                raise UserError(f"{key} is above 0, not {getattr(self, key)}: set method.{key}.")
        if self.opening < 1:
            raise UserError(f"opening is a side of at least one pixel, not {self.opening}: set method.opening.")


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings, see `Settings`; whoever trains says what supervises."""
    return [SingleStage(recipe)]


def labels_for(
    model: nn.Module, images: Tensor, present: Tensor, salient: Tensor, settings: Settings, *, prefix: int = 1
) -> tuple[Tensor, Tensor]:
    """Pseudo labels of a model for images, from its own maps.

    Args:
        model: images to logits (B, K).
        images: (B, C, H, W), normalised.
        present: (B, K) bool.
        salient: (B, H, W) bool.
        settings: of maps, refinement and labels.
        prefix: tokens that are no patches.

    Returns:
        As `labels.pseudo_labels`.
    """
    maps = class_maps(
        model, images, present, partial(class_activation, start_layer=settings.start_layer), prefix=prefix
    )
    with torch.no_grad():
        # Of the many classes few are there: refinement and labels are made of those, in their order.
        there = present.int().argsort(dim=1, descending=True, stable=True)[:, : int(present.sum(dim=1).max())]
        few = maps.gather(1, there[..., None].expand(-1, -1, maps.shape[2]))
        on_grid = few.unflatten(2, token_grid(maps.shape[2], *images.shape[-2:]))
        fine = refine(images, on_grid, iterations=settings.iterations, dilations=settings.dilations)
        labels, completed = pseudo_labels(normalised(fine), salient, cut=settings.cut or None, opening=settings.opening)
        names = torch.cat([torch.zeros_like(there[:, :1]), 1 + there], dim=1)  # of 0, 1, 2, ...
        known = labels != IGNORED
        named = names.gather(1, (labels * known).flatten(1)).view_as(labels)
        return torch.where(known, named, IGNORED), completed


class SingleStage(Hook):
    """Train classifier and segmentation network from image-level labels and saliency.

    The data's labels are the numbers of images, see ``Supervision``.

    Args:
        recipe: with the method's settings.
        supervision: what is known of each image.
    """

    def __init__(self, recipe: Recipe, supervision: Supervision | None = None) -> None:
        self.settings = Settings(**recipe.method)  # type: ignore[arg-type]
        for key in ("mixup", "cutmix", "label_smoothing", "random_erasing"):
            if getattr(recipe, key):
                raise UserError(f"Images with several labels are not mixed, smoothed or erased here: set {key}=0.")
        if self.settings.power and recipe.schedule != "constant":
            raise UserError(f"The rate falls by method.power alone: set schedule=constant, not {recipe.schedule}.")
        self.supervision, self.prefix = supervision, 1
        self.copies = 2 - self.settings.classification_share  # the second part has a pass for the maps
        self._mean, self._std = recipe.mean, recipe.std

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Start as a classifier.

        Raises:
            UserError: nothing supervises, the model cannot segment, or it has no layer to start from.
        """
        if self.supervision is None:
            raise UserError(
                "GETAM needs several labels and a saliency map for each image, and folders of classes have neither: "
                "call common.training.loop.train with SingleStage(recipe, supervision); see papers/getam/README.md."
            )
        if not hasattr(model, "segmenting"):
            raise UserError(f"{type(model).__name__} cannot segment: choose a model of GETAM.")
        layers = sum(isinstance(module, Attention) for module in model.modules())
        if self.settings.start_layer >= layers:
            raise UserError(
                f"The model's layers of attention are 0 to {layers - 1}, and maps start at layer "
                f"{self.settings.start_layer}: set method.start_layer."
            )
        backbone: Any = model.backbone
        self.prefix = backbone.num_prefix_tokens
        model.segmenting = False  # type: ignore[assignment]

    def start(self, run: Training) -> None:
        """Take down the constant rates."""
        self._rates = [group.get("initial_lr", group["lr"]) for group in run.optimizer.param_groups]
        for group in run.optimizer.param_groups:
            if group.get("fused"):  # PyTorch's fused kernel fails where a parameter has its first gradient later
                group["fused"] = False

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Look up the labels, and in the second part make the pseudo labels."""
        assert self.supervision is not None
        self._present, self._salient = (known.to(run.device) for known in self.supervision(batch.labels))
        # The loop's own loss is not used, but it is computed: of a distribution over the classes that are there.
        batch.targets = self._present.float() / self._present.sum(dim=1, keepdim=True).clamp(min=1)
        second = run.step >= self.settings.classification_share * run.total_steps
        if self.settings.power:
            left = (1 - run.step / run.total_steps) ** self.settings.power
            scale = left * (self.settings.segmentation_rate if second else 1)
            for group, rate in zip(run.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * scale
        model: Any = run.plain_model
        model.segmenting = False
        if second:
            self._labels, self._completed = labels_for(
                model, batch.images, self._present, self._salient, self.settings, prefix=self.prefix
            )
        model.segmenting = second

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Of the classifier, and in the second part of the segmentation network."""
        total = F.multilabel_soft_margin_loss(batch.logits, self._present.float())
        if not run.plain_model.segmenting:
            return total
        settings, pixels = self.settings, batch.outputs[1]
        total = total + balanced_cross_entropy(pixels, self._labels)
        if settings.saliency != "none":
            objects = self._completed if settings.saliency == "released" else self._completed | self._salient
            total = total + saliency_loss(pixels, ~objects)
        if settings.energy_weight:
            mean, std = (torch.tensor(v, device=run.device).view(-1, 1, 1) for v in (self._mean, self._std))
            energy = dense_energy(
                255 * (batch.images * std + mean), pixels, self._labels == IGNORED, scale=settings.energy_scale,
                sigma_rgb=settings.sigma_rgb, sigma_xy=settings.sigma_xy,
            )  # fmt: skip
            total = total + settings.energy_weight * energy
        return total

    def finish(self, run: Training) -> None:
        """Leave a classifier that can segment when asked."""
        model: Any = run.plain_model
        model.segmenting = False
