"""PyramidAT as a hook: a pass on the clean images, the attack, and the loop's own pass on the adversarial ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from common.errors import UserError, nearest
from common.outputs import logits_of
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe
from papers.pyramid_at.masks import MASKS, Masks
from papers.pyramid_at.method import PyramidAttack

LOSSES = ("softmax", "sigmoid")


@dataclass(frozen=True)
class PyramidSettings:
    """The recipe's ``method`` table.

    Attributes:
        cells, multipliers: numbers with commas, coarse level first; without cells, training is plain.
        epsilon, step, steps: of ``method.PyramidAttack``.
        share: of a batch, its first images, that are attacked.
        weight: of the loss of an attacked image beside that of a clean one.
        masks: see ``masks.MASKS``.
        dropout: rate of embedding, attention output and MLPs; the recipe's ``drop_path_rate`` is stochastic depth's.
        rescaled: divide what stochastic depth keeps by the share that is kept.
        loss: ``softmax`` cross-entropy, the recipe's, or ``sigmoid``, binary cross-entropy summed over the classes.
        head_bias: that the classifier starts from, and its weights from zero; 0 leaves the model's own start.

    Raises:
        UserError: a value is out of range.
    """

    cells: str
    multipliers: str
    epsilon: float
    step: float
    steps: int
    share: float
    weight: float
    masks: str
    dropout: float
    rescaled: bool
    loss: str
    head_bias: float

    def __post_init__(self) -> None:
        for name, known in (("masks", MASKS), ("loss", LOSSES)):
            if (value := getattr(self, name)) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, not {value!r}.{nearest(value, known)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is a rate of at least 0 and below 1, not {self.dropout}.")
        if not 0 < self.share <= 1:
            raise UserError(f"share is of a batch, above 0 and at most 1, not {self.share}.")
        if self.weight < 0:
            raise UserError(f"weight must not be negative: {self.weight}.")

    @property
    def attack(self) -> PyramidAttack:
        """The attack of these settings."""
        try:
            cells = tuple(int(text) for text in self.cells.split(",") if text.strip())
            multipliers = tuple(float(text) for text in self.multipliers.split(",") if text.strip())
        except ValueError:
            raise UserError(
                f'cells and multipliers are numbers with commas, as in "7, 14, 224", not {self.cells!r} and '
                f"{self.multipliers!r}."
            ) from None
        return PyramidAttack(cells, multipliers, self.epsilon, self.step, self.steps)


class PyramidAdversarialTraining(Hook):
    """Train on clean images and on such with a pyramid of perturbations towards random classes.

    Args:
        settings: see ``PyramidSettings``.
        mean, std: with which the images of a batch are normalised.
    """

    def __init__(self, settings: PyramidSettings, mean: Sequence[float], std: Sequence[float]) -> None:
        self.settings, self.attack = settings, settings.attack
        self.copies = 1 + settings.share * (1 + self.attack.steps) if self.attack.cells else 1
        # From images in [-1, 1] to normalised ones: x * scale + shift.
        self._scale = 0.5 / torch.tensor(std).view(-1, 1, 1)
        self._shift = (0.5 - torch.tensor(mean).view(-1, 1, 1)) * 2 * self._scale

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Set rates and the classifier's start.

        Raises:
            UserError: the model has no dropout where one is asked for, or no classifier ``head``.
        """
        settings = self.settings
        dropped = [
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.Dropout) and name.endswith(("pos_drop", "proj_drop", "mlp.drop1", "mlp.drop2"))
        ]
        if settings.dropout and not dropped:
            raise UserError(f"{type(model).__name__} has no dropout of timm's transformers: set method.dropout=0.")
        for module in dropped:
            module.p = settings.dropout
        for path in (module for module in model.modules() if isinstance(module, DropPath)):
            path.scale_by_keep = settings.rescaled
        if settings.head_bias:
            head = getattr(model, "head", None)
            if not isinstance(head, nn.Linear):
                raise UserError(f"{type(model).__name__} has no linear classifier head: set method.head_bias=0.")
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, settings.head_bias)

    def start(self, run: Training) -> None:
        """Take hold of what the model drops, and have the normalisation on the run's device."""
        self._scale, self._shift = self._scale.to(run.device), self._shift.to(run.device)
        self._masks = Masks(run.plain_model, self.settings.masks)
        norms = nn.modules.batchnorm._BatchNorm
        self._norms = [(module, module.momentum) for module in run.plain_model.modules() if isinstance(module, norms)]

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Make the clean pass and the attack, and leave the adversarial images to the loop."""
        self._masks.seed = int(torch.randint(2**31, ()))
        self._enter(adversarial=False)
        if not self.attack.cells:
            return
        with run.accelerator.no_sync(run.model):  # the loop's backward sums over processes
            run.backward(run.loss(replace(batch)))
            self._enter(adversarial=True)
            count = max(1, round(self.settings.share * len(batch.images)))
            batch.labels, batch.targets = batch.labels[:count], batch.targets[:count]
            batch.images = self._attacked(run, batch.images[:count])

    def _enter(self, *, adversarial: bool) -> None:
        """Drop what is to be dropped for such images; batch norms, where there are any, keep those of clean ones."""
        self._masks.adversarial = adversarial
        for module, momentum in self._norms:
            module.momentum = 0.0 if adversarial else momentum

    def _attacked(self, run: Training, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) on their way to a class that is drawn for each of them."""
        pixels = (images - self._shift) / self._scale
        aims = torch.randint(run.recipe.num_classes, (len(images),)).to(images.device)
        scaler = run.accelerator.scaler  # in half precision small gradients would vanish

        def loss(pixels: Tensor) -> Tensor:
            logits = logits_of(run.model(pixels * self._scale + self._shift))
            value = self._loss(logits, F.one_hot(aims, logits.shape[1]).float())
            return value if scaler is None else scaler.scale(value)

        levels = self.attack(pixels, loss)
        return self.attack.apply(pixels, levels) * self._scale + self._shift

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over images of the settings' loss for targets (B, classes) or (B,)."""
        if self.settings.loss == "softmax":
            return F.cross_entropy(logits, targets)
        if targets.ndim == 1:
            targets = F.one_hot(targets, logits.shape[1])
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum") / len(logits)

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """The loss of the settings, a mean over images, and on adversarial ones weighted by how many there are."""
        if self.settings.loss == "sigmoid":
            loss = self._loss(batch.logits, batch.targets)
        return self.settings.weight * self.settings.share * loss if self._masks.adversarial else loss

    def finish(self, run: Training) -> None:
        """Leave the model as it was."""
        if hasattr(self, "_masks"):
            self._enter(adversarial=False)
            self._masks.close()


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings, see ``PyramidSettings``.

    Raises:
        UserError: a value is out of range, or a key is none of them.
    """
    method: dict[str, Any] = dict(recipe.method)
    try:
        settings = PyramidSettings(**method)
    except TypeError as error:
        raise UserError(f"The method table of this recipe is not PyramidAT's: {error}.") from None
    return (PyramidAdversarialTraining(settings, recipe.mean, recipe.std),)
