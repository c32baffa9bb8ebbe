"""What SimCLR changes about training: two views and the contrastive loss, or a frozen encoder, or a new classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.errors import UserError, nearest
from common.training.batch_norm import synchronise
from common.training.hooks import Batch, Hook, Training
from common.training.randomness import generator
from common.training.recipe import Recipe
from papers.simclr.augmentation import AugmentationSettings, Draws, distort
from papers.simclr.method import nt_xent

STAGES = ("pretrain", "linear", "finetune", "supervised")


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings.

    ``stage``: ``pretrain``; ``linear``, which trains the classifier alone; ``finetune``; ``supervised``, from scratch.
    ``global_batch_norm``: batch norm over all processes. ``zero_classifier``: start with a classifier of zeros. Of
    pre-training alone: ``temperature``; ``released_loss``, the sum of both directions in place of the mean over all
    views; ``colour_strength``, ``colour_probability``, ``grey_probability``, ``blur_probability`` and
    ``additive_brightness``, see ``augmentation.AugmentationSettings``.

    Raises:
        UserError: a value is out of range, or the recipe asks for what contrastive learning has no form of.
    """
    method = recipe.method
    stage = str(method["stage"])
    if stage not in STAGES:
        raise UserError(f"stage must be one of {', '.join(STAGES)}, not {stage!r}.{nearest(stage, STAGES)}")
    common = (bool(method["global_batch_norm"]), bool(method["zero_classifier"]))
    if stage != "pretrain":
        return [Classifying(stage == "linear", *common)]
    for key in ("mixup", "cutmix", "random_erasing", "label_smoothing"):
        if getattr(recipe, key):
            raise UserError(f"Contrastive pre-training has no labels to mix or smooth: set {key}=0.")
    if recipe.distillation != "none":
        raise UserError("Contrastive pre-training has no form with distillation: set distillation=none.")
    temperature = float(method["temperature"])
    if temperature <= 0:
        raise UserError(f"The temperature must be above 0, not {temperature}: set method.temperature.")
    settings = AugmentationSettings(
        strength=float(method["colour_strength"]),
        colour=float(method["colour_probability"]),
        grey=float(method["grey_probability"]),
        blur=float(method["blur_probability"]),
        additive=bool(method["additive_brightness"]),
    )
    return [Contrastive(settings, temperature, bool(method["released_loss"]), recipe.mean, recipe.std, *common)]


class Classifying(Hook):
    """Prepare a network for the training of its classifier, or of all of it.

    Args:
        frozen: train nothing but the classifier.
        global_batch_norm: take the statistics of batch norm over all processes.
        zero_classifier: start with a classifier of zeros.
    """

    def __init__(self, frozen: bool, global_batch_norm: bool, zero_classifier: bool) -> None:
        self.frozen, self.global_batch_norm, self.zero_classifier = frozen, global_batch_norm, zero_classifier

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Convert, reset and freeze."""
        if self.global_batch_norm and run.accelerator.num_processes > 1:
            synchronise(model)
        if self.zero_classifier:
            for parameter in model.get_classifier().parameters():
                nn.init.zeros_(parameter)
        if self.frozen:
            model.freeze()
        else:
            self.train(model)

    def train(self, model: nn.Module) -> None:
        """Train all that is used: the layers of the projection head beyond the classifier's are not."""
        for index, layer in enumerate(zip(model.projection.linear, model.projection.norm, strict=True)):
            if index >= model.kept_layers:
                for part in layer:
                    part.requires_grad_(False)


class Contrastive(Classifying):
    """Pre-train without labels: the loss of two views of each image.

    Labels train a classifier on the features, whose gradient stops there, so that a run shows how it goes; the encoder
    learns nothing from them.

    Args:
        settings: of the distortion of the views; crops and flips are made by the data.
        temperature: of NT-Xent.
        released_loss: twice the loss, as released.
        mean, std: with which the images of a batch are normalised.
        global_batch_norm, zero_classifier: see :class:`Classifying`.
    """

    views = copies = 2

    def __init__(
        self,
        settings: AugmentationSettings,
        temperature: float,
        released_loss: bool,
        mean: Sequence[float],
        std: Sequence[float],
        global_batch_norm: bool,
        zero_classifier: bool,
    ) -> None:
        super().__init__(False, global_batch_norm, zero_classifier)
        self.settings, self.temperature, self.weight = settings, temperature, 2.0 if released_loss else 1.0
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def train(self, model: nn.Module) -> None:
        """Train everything."""
        model.pretraining = True

    def start(self, run: Training) -> None:
        """Have the statistics on the run's device, and refuse what would leave negatives out."""
        if run.plan.accumulation > 1:
            raise UserError(
                "The negatives of a batch are compared in one pass, which accumulation would cut: choose a "
                "--device-batch of the total batch over the devices, or a smaller batch with --set total_batch=N."
            )
        self._mean, self._std = self._mean.to(run.device), self._std.to(run.device)

    def finish(self, run: Training) -> None:
        """Leave a classifier."""
        run.plain_model.pretraining = False

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Distort the views, (B, 2, C, H, W), and put them one after the other, (2 B, C, H, W)."""
        views = []
        for index, images in enumerate(batch.images.unbind(dim=1)):
            # Draws are made for the total batch and shared out as the images are, whatever the number of processes.
            random = generator(run.plan.seed, "distortion", run.step, index)
            own = slice(run.plan.rank, None, run.plan.world)
            pixels = (images * self._std + self._mean).clamp_(0, 1)
            views.append((self.distort(pixels, run.plan.total_batch, own, random) - self._mean) / self._std)
        batch.images = torch.cat(views)
        batch.labels = batch.targets = batch.labels.repeat(2)

    def distort(self, images: Tensor, total: int, own: slice, random: torch.Generator) -> Tensor:
        """Distort images (B, C, H, W) in [0, 1], which are ``own`` of a batch of ``total``."""
        draws = Draws.sample(total, self.settings, random).select(own, images.device)
        return distort(images, draws, self.settings)

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Add the contrastive loss to that of the classifier, which shares no parameter with it."""
        return loss + self.weight * nt_xent(batch.outputs[1], self.temperature)
