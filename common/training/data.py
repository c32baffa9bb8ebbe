"""Training data: the plan of batches that every source follows, and data sets that are one tensor in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from common.errors import UserError
from common.training.crops import resized_crops, sample_boxes
from common.training.randomness import generator
from common.training.recipe import Recipe

#: How random resized crops of images in memory can be resized.
INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Plan:
    """How the images of a step are shared out: total_batch = device_batch x accumulation x world.

    The order of an epoch is one list for all processes; process ``rank`` takes each ``world``-th entry from
    ``rank`` on, so that more processes give the same steps, and repeated images go to different processes.
    """

    seed: int
    total_batch: int
    device_batch: int
    rank: int
    world: int
    device: torch.device
    views: int = 1  # augmented images made of each image

    @property
    def accumulation(self) -> int:
        """Forward passes of a process per optimizer step."""
        return self.total_batch // (self.device_batch * self.world)

    def describe(self) -> str:
        """Return the batch arithmetic."""
        return (
            f"{self.device_batch} images per device x {self.world} devices x "
            f"{self.accumulation} accumulation steps = total batch {self.total_batch}"
        )


def make_plan(
    recipe: Recipe, *, seed: int, device_batch: int, rank: int, world: int, device: torch.device, views: int = 1
) -> Plan:
    """Share out the recipe's total batch.

    Args:
        recipe: gives the total batch.
        seed: of the run.
        device_batch: images per device and forward pass; 0: all that fall to a device.
        rank: number of this process, from 0.
        world: number of processes, each with one device.
        device: of this process.
        views: augmented images made of each image.

    Raises:
        UserError: the total batch is not a multiple of what the devices take; it is never changed silently. Or several
            views of an image are to be mixed or erased.
    """
    per_pass = (device_batch or max(1, recipe.total_batch // world)) * world
    if recipe.total_batch % per_pass:
        raise UserError(
            f"The total batch of {recipe.total_batch} is not a multiple of {per_pass // world} images per device x "
            f"{world} devices; choose --device-batch so that it is, or change the total with --set total_batch=N."
        )
    if recipe.mixes and (per_pass // world) % 2:
        raise UserError(f"Mixing pairs images: {per_pass // world} images per device must be an even number.")
    if views > 1 and (recipe.mixes or recipe.random_erasing):
        raise UserError(
            "Several views of an image are neither mixed nor erased: set mix_probability=0 and random_erasing=0."
        )
    return Plan(seed, recipe.total_batch, per_pass // world, rank, world, device, views)


class TrainingData(Protocol):
    """What the loop asks of a data set. Images come as uint8 (B, C, H, W), labels as int64 (B,), on the device.

    Where a plan asks for several views, training images come as (B, views, C, H, W).
    """

    num_classes: int

    def steps_per_epoch(self, recipe: Recipe) -> int:
        """Return the number of optimizer steps in an epoch."""

    def training_batches(
        self, recipe: Recipe, plan: Plan, epoch: int, first_step: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the passes of this process from ``first_step`` of the epoch on, augmented as far as images are."""

    def validation_batches(self, recipe: Recipe, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's share of the validation set; label -1 marks padding."""

    def describe(self) -> dict[str, Any]:
        """Return what identifies the data, as plain data; a resumed run must find the same."""


def epoch_steps(length: int, recipe: Recipe) -> int:
    """Return the optimizer steps of an epoch over ``length`` images; an incomplete last batch is left out."""
    images = recipe.epoch_images or length
    available = length * recipe.repeated_augmentation
    if images > available:
        raise UserError(f"epoch_images is {images}, but the training set holds {length} images.")
    if images < recipe.total_batch:
        raise UserError(
            f"An epoch has {images} images, fewer than the total batch of {recipe.total_batch}; "
            "lower it with --set total_batch=N."
        )
    return images // recipe.total_batch


def epoch_order(length: int, recipe: Recipe, seed: int, epoch: int) -> Tensor:
    """Return the indices of an epoch, int64 (steps x total batch,), shuffled.

    With repeated augmentation (Hoffer et al., "Augment your batch", arXiv 1901.09335) each index stands R times in
    a row and the epoch ends after as many images as without it, so that it shows 1/R of the images.
    """
    order = torch.randperm(length, generator=generator(seed, "order", epoch))
    if recipe.repeated_augmentation > 1:
        order = order.repeat_interleave(recipe.repeated_augmentation)
    return order[: epoch_steps(length, recipe) * recipe.total_batch]


class TensorData:
    """A data set small enough to be one tensor on the device; batches are taken by index, without workers.

    Args:
        train_images: uint8 (N, C, H, W).
        train_labels: integers (N,), from 0.
        validation_images: uint8 (M, C, H, W).
        validation_labels: integers (M,).
        num_classes: 0: one more than the largest label.
    """

    def __init__(
        self,
        train_images: Tensor,
        train_labels: Tensor,
        validation_images: Tensor,
        validation_labels: Tensor,
        num_classes: int = 0,
    ) -> None:
        for images, labels in ((train_images, train_labels), (validation_images, validation_labels)):
            if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(labels) or not len(images):
                raise UserError(
                    "Images in memory must be uint8 (N, C, H, W) with N labels; "
                    f"these are {images.dtype} {tuple(images.shape)} with {len(labels)}."
                )
        self.train = (train_images, train_labels.long())
        self.validation = (validation_images, validation_labels.long())
        self.num_classes = num_classes or int(max(train_labels.max(), validation_labels.max())) + 1
        self._digest = hashlib.sha256(train_images.cpu().contiguous().numpy().data).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return sizes and the SHA-256 of the training images."""
        return {
            "kind": "tensor",
            "train_images": len(self.train[0]),
            "validation_images": len(self.validation[0]),
            "image_shape": list(self.train[0].shape[1:]),
            "num_classes": self.num_classes,
            "sha256": self._digest,
        }

    def steps_per_epoch(self, recipe: Recipe) -> int:
        """Return the steps of an epoch, and refuse a recipe that asks for what tensors do not offer."""
        size = self.train[0].shape[-1]
        if self.train[0].shape[-2:] != (recipe.input_size, recipe.input_size):
            raise UserError(
                f"The images in memory are {tuple(self.train[0].shape[-2:])}, the recipe asks for "
                f"input_size {recipe.input_size}; say --set input_size={size}."
            )
        if recipe.auto_augment or recipe.color_jitter:
            raise UserError(
                "Images in memory can be cropped, flipped, erased and mixed; the recipe asks for auto_augment or "
                'color_jitter: set auto_augment="" and color_jitter=0.'
            )
        if recipe.train_crop == "simple":
            raise UserError("Images in memory are cropped by train_crop random_resized, padded or none, not simple.")
        if recipe.train_crop == "random_resized" and recipe.interpolation not in INTERPOLATIONS:
            raise UserError(
                f"Crops of images in memory are resized by {' or '.join(INTERPOLATIONS)} interpolation, not by "
                f"{recipe.interpolation}: say --set interpolation={INTERPOLATIONS[0]}."
            )
        return epoch_steps(len(self.train[0]), recipe)

    def training_batches(
        self, recipe: Recipe, plan: Plan, epoch: int, first_step: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the passes of this process; each step's draws are made for the total batch and shared out."""
        images, labels = (tensor.to(plan.device) for tensor in self.train)
        order = epoch_order(len(images), recipe, plan.seed, epoch).to(plan.device)
        for step in range(first_step, len(order) // recipe.total_batch):
            own = slice(step * recipe.total_batch + plan.rank, (step + 1) * recipe.total_batch, plan.world)
            index = order[own]
            views = [augment(images[index], recipe, plan, epoch, step, view) for view in range(plan.views)]
            batch = views[0] if plan.views == 1 else torch.stack(views, dim=1)
            yield from zip(batch.split(plan.device_batch), labels[index].split(plan.device_batch), strict=True)

    def validation_batches(self, recipe: Recipe, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's share, 500 images a pass."""
        images, labels = self.validation
        for index in validation_order(len(images), plan).split(500):
            chosen = labels[index.clamp(min=0)].where(index >= 0, torch.tensor(-1))
            yield images[index.clamp(min=0)].to(plan.device), chosen.to(plan.device)


def validation_order(length: int, plan: Plan) -> Tensor:
    """Return this process's validation indices, as many for each process; -1 pads the last ones."""
    share = -(-length // plan.world)
    order = torch.arange(plan.rank, share * plan.world, plan.world)
    return order.where(order < length, torch.tensor(-1))


def augment(images: Tensor, recipe: Recipe, plan: Plan, epoch: int, step: int, view: int = 0) -> Tensor:
    """Crop and flip a batch of uint8 images (B, C, H, W), each by its own draw; ``view`` counts from 0."""
    counters = (epoch, step, view) if view else (epoch, step)
    if recipe.train_crop == "random_resized":
        return _resized(images, recipe, plan, generator(plan.seed, "augment", *counters))
    padding = recipe.crop_padding if recipe.train_crop == "padded" else 0
    if not padding and not recipe.horizontal_flip:
        return images
    draws = generator(plan.seed, "augment", *counters)
    own = slice(plan.rank, None, plan.world)
    shifts = torch.randint(0, 2 * padding + 1, (2, recipe.total_batch), generator=draws)[:, own].to(plan.device)
    flips = (torch.rand(recipe.total_batch, generator=draws)[own] < recipe.horizontal_flip).to(plan.device)
    count, _, height, width = images.shape
    rows = torch.arange(height, device=plan.device) + shifts[0, :, None]  # (B, H)
    columns = torch.arange(width, device=plan.device)
    columns = torch.where(flips[:, None], columns.flip(0), columns) + shifts[1, :, None]  # (B, W)
    padded = torch.nn.functional.pad(images, (padding,) * 4) if padding else images
    which = torch.arange(count, device=plan.device)
    # Indexing puts the image axes first and the channels last.
    return padded[which[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _resized(images: Tensor, recipe: Recipe, plan: Plan, draws: torch.Generator) -> Tensor:
    """Cut a random box out of each image, resize it to the image's size and flip it."""
    own = slice(plan.rank, None, plan.world)
    size = images.shape[-1]
    boxes = sample_boxes(recipe.total_batch, size, size, recipe.crop_scale, recipe.crop_ratio, draws)[own]
    flips = (torch.rand(recipe.total_batch, generator=draws)[own] < recipe.horizontal_flip).to(plan.device)
    crops = resized_crops(images, boxes.to(plan.device), size, recipe.interpolation)
    return torch.where(flips[:, None, None, None], crops.flip(3), crops)
