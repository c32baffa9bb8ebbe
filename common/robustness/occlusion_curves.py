"""Accuracy as more and more of an image is dropped or shuffled, for any classifier and any labelled images.

The conditions are those of Naseer et al., "Intriguing Properties of Vision Transformers", arXiv 2105.10497: random,
salient and non-salient patch drop, and shuffling by grid size (``common.robustness.occlusion``). The benchmark
``imagenet-occlusion`` measures the same on ImageNet, resumable and by several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.robustness.normalisation import Normalized
from common.robustness.occlusion import Grid, drop_tiles, random_drop, salient_tiles, shuffle_tiles

#: Images (B, C, H, W) in [0, 1], a seed an image, and saliency (B, tiles) or None, to the changed images.
Condition = Callable[[Tensor, Sequence[int], Tensor | None], Tensor]
#: Images in [0, 1] to the saliency of their tiles (B, tiles), not negative.
Saliency = Callable[[Tensor], Tensor]

SHARES = tuple(tenths / 10 for tenths in range(1, 10))
SHUFFLE_GRIDS = (2, 4, 8, 14)


def conditions(
    *,
    grid: int = 14,
    shares: Sequence[float] = SHARES,
    shuffle_grids: Sequence[int] = SHUFFLE_GRIDS,
    salient: bool = False,
) -> dict[str, Condition]:
    """The conditions by the name of the metric that each gives, whole images (``top1``) first.

    Args:
        grid: tiles along each side that are dropped.
        shares: of the tiles that are dropped at random, rounded down to whole tiles; of the saliency that is dropped
            (salient) or kept (non-salient).
        shuffle_grids: tiles along each side that are shuffled.
        salient: whether the most, and the least, salient tiles are dropped, too; then saliency is needed.
    """
    chosen: dict[str, Condition] = {"top1": _whole}
    for share in shares:
        # 0.3 * 10 is a little less than 3 in binary.
        chosen[f"random_drop_top1/{share:g}"] = partial(_random, count=int(share * grid**2 + 1e-9), grid=grid)
    if salient:
        for share in shares:
            chosen[f"salient_drop_top1/{share:g}"] = partial(drop_salient, share=share, grid=grid)
        for share in shares:
            chosen[f"nonsalient_drop_top1/{share:g}"] = partial(drop_nonsalient, share=share, grid=grid)
    for tiles in shuffle_grids:
        chosen[f"shuffle_top1/{tiles}x{tiles}"] = partial(_shuffled, grid=tiles)
    return chosen


def accuracies(
    model: nn.Module,
    batches: Iterable[Sequence[Tensor]],
    conditions: Mapping[str, Condition],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    saliency: Saliency | None = None,
) -> dict[str, float]:
    """Top-1 accuracy under each condition, in per cent.

    Args:
        model: normalised images to logits, in eval mode.
        batches: ``(images, labels)``, or ``(images, labels, saliency)`` where it is known beforehand; images
            (B, C, H, W), uint8 or in [0, 1]; labels (B,), saliency (B, tiles). A ``DataLoader`` will do.
        conditions: see ``conditions``. The n-th image of all has the seed n, under each of them.
        mean, std: the model's, per channel.
        saliency: of images, where ``batches`` do not have it.

    Raises:
        UserError: there is no image, or a condition needs saliency.
    """
    device = next(model.parameters()).device
    normalized = Normalized(model, mean, std).to(device).eval()
    right, seen = dict.fromkeys(conditions, 0), 0
    with torch.inference_mode():
        for batch in batches:
            pixels, labels = batch[0].to(device), batch[1].to(device)
            pixels = pixels if pixels.is_floating_point() else pixels.float() / 255
            heat = batch[2].to(device) if len(batch) > 2 else saliency(pixels) if saliency else None
            seeds = range(seen, seen + len(pixels))
            for name, change in conditions.items():
                right[name] += int((normalized(change(pixels, seeds, heat)).argmax(dim=1) == labels).sum())
            seen += len(pixels)
    if not seen:
        raise UserError("accuracy needs at least one image; the batches are empty.")
    return {name: 100 * count / seen for name, count in right.items()}


def drop_salient(images: Tensor, seeds: Sequence[int], saliency: Tensor | None, *, share: float, grid: Grid) -> Tensor:
    """Drop the most salient tiles, which together hold about ``share`` of the saliency."""
    return drop_tiles(images, salient_tiles(_needed(saliency), share), grid=grid)


def drop_nonsalient(
    images: Tensor, seeds: Sequence[int], saliency: Tensor | None, *, share: float, grid: Grid
) -> Tensor:
    """Drop all but the most salient tiles, which together hold about ``share`` of the saliency."""
    return drop_tiles(images, ~salient_tiles(_needed(saliency), share), grid=grid)


def _whole(images: Tensor, seeds: Sequence[int], saliency: Tensor | None) -> Tensor:
    return images


def _random(images: Tensor, seeds: Sequence[int], saliency: Tensor | None, *, count: int, grid: int) -> Tensor:
    return random_drop(images, count, grid=grid, seeds=seeds)


def _shuffled(images: Tensor, seeds: Sequence[int], saliency: Tensor | None, *, grid: int) -> Tensor:
    return shuffle_tiles(images, grid=grid, seeds=seeds)


def _needed(saliency: Tensor | None) -> Tensor:
    if saliency is None:
        raise UserError("salient patches are dropped by their saliency: give one, such as an attention map.")
    return saliency
