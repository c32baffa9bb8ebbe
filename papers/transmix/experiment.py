"""How far shares of labels are from what is seen in mixed images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from common import bench
from common.attention import LastAttention
from common.training.preparation import Preparation
from common.training.randomness import preserved_global_state, seed_global
from common.training.recipe import Recipe
from papers.transmix.method import attention_share

#: Garments are brighter than this, of 255; the rest of an image is black.
GARMENT = 25
#: Images that are mixed with each other at once; one of a pair is measured.
MIXED = 20


def share_errors(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """How far shares of labels are from what is seen of two garments in CutMix images.

    What is seen: the partner's garment pixels of all garment pixels in the mixed image. Every pair of test images has
    a box of its own, the same for every model.

    Returns:
        ``top1``; the absolute error ``label_share_error/area``, ``/attention`` and ``/mean`` (of both), in [0, 1],
        each (subsets, pairs).
    """
    always = recipe.with_changes(
        "cutmix=1.0", "mixup=0.0", "mix_probability=1.0", "mix_switch_probability=1.0", "mix_mode=elem"
    )
    tests = bench.test_set(quick)
    device = next(model.parameters()).device
    prepare, attention = Preparation(always, device), LastAttention(model)
    errors: dict[str, list[Tensor]] = {"area": [], "attention": [], "mean": []}
    with preserved_global_state(), torch.inference_mode():
        seed_global(0, "visible objects")
        for images, labels in _parts(tests):
            batch = prepare.training(images.to(device), labels.to(device))
            assert batch.mixed is not None
            garment = (images[:, 0] > GARMENT).to(device)
            first = (garment * (1 - batch.mixed.mask)).sum(dim=(1, 2))
            second = (garment.flip(0) * batch.mixed.mask).sum(dim=(1, 2))
            seen = second / (first + second).clamp(min=1)
            model(batch.images)
            by_attention = attention_share(batch.mixed.mask, attention.take(*images.shape[-2:]))
            by_area = batch.mixed.share
            shares = {"area": by_area, "attention": by_attention, "mean": (by_area + by_attention) / 2}
            for name, share in shares.items():
                # Where nothing is seen no share is wrong.
                error = torch.where(first + second > 0, (share - seen).abs(), 0.0)
                errors[name].append(error[: len(images) // 2].cpu())
    attention.close()
    subsets = len(tests.clean)
    by_pair = {f"label_share_error/{name}": torch.cat(e).view(subsets, -1).numpy() for name, e in errors.items()}
    return {**bench.accuracy(model, recipe, quick), **by_pair}


def _parts(tests: bench.TestSet) -> list[tuple[Tensor, Tensor]]:
    """Images (n, 3, 28, 28) and labels (n,), n at most `MIXED` and even, all of one subset."""
    return [
        part
        for images, labels in zip(tests.clean, tests.labels, strict=True)
        for part in zip(images.split(MIXED), labels.split(MIXED), strict=True)
    ]
