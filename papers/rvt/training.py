"""What RVT changes about training: patch-wise augmentation, for the starred models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from common.training.hooks import ExtraPass, Hook
from common.training.recipe import Recipe
from papers.rvt.patch_augmentation import PatchAugmentation


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hooks of a recipe's method settings.

    ``patch_augmentation``: whether batches are trained on a second time with augmented patches;
    ``patch_augmentation_size``: side of a patch in pixels; ``patch_augmentation_gradient``: ``kept`` (publication) or
    ``discarded`` (release).
    """
    method = recipe.method
    if not method["patch_augmentation"]:
        return ()
    augment = PatchAugmentation(patch=int(method["patch_augmentation_size"]))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (recipe.mean, recipe.std))
    # Images are normalised here; white and black bound what augmentation may make of them.
    change: partial[Tensor] = partial(augment, low=(0 - mean) / std, high=(1 - mean) / std)
    return (ExtraPass(change, str(method["patch_augmentation_gradient"])),)
