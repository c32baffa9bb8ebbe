"""How long a recipe takes: GPU-hours from multiply-adds and stated assumptions, so that users can plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.training.hooks import ExtraPass, Hook
from common.training.recipe import Recipe

#: Training images of ImageNet-1k (ILSVRC 2012).
IMAGENET_IMAGES = 1_281_167
#: A training pass costs this many forward passes: forward, and a backward pass of twice the work.
FORWARD_AND_BACKWARD = 3
#: Floating-point operations in a multiply-add.
OPERATIONS = 2


@dataclass(frozen=True)
class Machine:
    """What a GPU is assumed to do.

    Args:
        name: as shown.
        peak: of its matrix units in the recipe's precision, in floating-point operations a second.
        utilisation: share of the peak that training reaches, in (0, 1].
    """

    name: str
    peak: float
    utilisation: float


#: The peak is the data sheet's for dense float16 and bfloat16; the utilisation is a guess to be replaced by one's own.
A100 = Machine("A100", peak=312e12, utilisation=0.3)


def passes(hooks: Sequence[Hook]) -> float:
    """Return the cost of a step in units of a plain one.

    Every copy of an image costs as much as the image; an extra pass adds 1, one without gradient a third.
    """
    extra = (hook.gradient for hook in hooks if isinstance(hook, ExtraPass))
    once = 1 + sum(1 if gradient == "kept" else 1 / FORWARD_AND_BACKWARD for gradient in extra)
    return once * math.prod(hook.copies for hook in hooks)


def gpu_hours(
    recipe: Recipe,
    multiply_adds: float,
    *,
    hooks: Sequence[Hook] = (),
    images: int = IMAGENET_IMAGES,
    machine: Machine = A100,
) -> float:
    """Estimate the GPU-hours of a training run, without evaluation and data loading.

    Args:
        recipe: gives epochs and images.
        multiply_adds: of one image's forward pass.
        hooks: the paper's; extra passes and copies of images count.
        images: in the training set.
        machine: what a GPU does.
    """
    epoch = (recipe.epoch_images or images) // recipe.total_batch * recipe.total_batch
    operations = OPERATIONS * FORWARD_AND_BACKWARD * multiply_adds * passes(hooks)
    return recipe.total_epochs * epoch * operations / (machine.peak * machine.utilisation) / 3600
