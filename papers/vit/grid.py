"""What a vision transformer knows about the grid of its patches, and how its positions serve other sizes of images."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from common import bench
from common.bench.hosts import SIDE
from common.measurement import Finding
from common.training.recipe import Recipe
from papers.vit.model import resize_positions

#: Twice the pixels a side of the training.
LARGE = 2 * SIDE
#: Subsets of the test images that are seen at that size.
SUBSETS = 4
#: What becomes of the positions of 7 x 7 patches where there are 14 x 14: resized as a grid, resized as a sequence of
#: 49 (as if there were no columns), or their mean everywhere.
FORMS = ("grid", "sequence", "mean_position")


def permutation() -> Finding:
    """Permute the patches of images, with and without their positions, and compare the output of the class token."""
    torch.manual_seed(0)
    model: Any = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=7)
    model = model.double().eval()
    for block in model.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.5)  # such that attention is far from uniform
    nn.init.normal_(model.pos_embed)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    order = torch.randperm(16)
    with torch.no_grad():
        before = model(x)
        moved = model(permuted(x, order, 8))
        model.pos_embed[:, 1:] = model.pos_embed[:, 1:][:, order]
        both = model(permuted(x, order, 8))
    scale = float(before.abs().max())
    alone, error = (float((output - before).abs().max()) / scale for output in (moved, both))
    return Finding.exactly(
        name="permutation",
        statement="Moving patches together with their positions leaves the output as it is; without them it does not.",
        holds=error < 1e-12 and alone > 1e-3,
        evidence=f"The logits differ by {error:.1e} of the largest; with patches moved alone, by {alone:.1e}.",
        value=error,
    )


def permuted(images: Tensor, order: Tensor, patch: int) -> Tensor:
    """Images (B, C, H, W) whose k-th patch of ``patch`` x ``patch`` pixels is what was the ``order[k]``-th."""
    patches = F.unfold(images, patch, stride=patch)
    return F.fold(patches[:, :, order], images.shape[-2:], patch, stride=patch)


def with_positions(model: Any, form: str, size: int = LARGE) -> nn.Module:
    """A copy of ``model`` for images of ``size`` pixels, whose positions are made as `FORMS` says."""
    trained = model.pos_embed.detach()
    changed = copy.deepcopy(model)
    changed.set_input_size(img_size=(size, size))
    grid = changed.patch_embed.grid_size
    count = grid[0] * grid[1]
    if form == "grid":
        positions = resize_positions(trained, grid)
    else:
        line = trained[:, 1:].transpose(1, 2)
        if form == "sequence":
            spread = F.interpolate(line, size=count, mode="linear", align_corners=True)
        else:
            spread = line.mean(dim=2, keepdim=True).expand(-1, -1, count)
        positions = torch.cat([trained[:, :1], spread.transpose(1, 2)], dim=1)
    changed.pos_embed.data.copy_(positions)
    return changed


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray]:
    """``top1`` at the size of the training, ``double_size_top1/FORM`` at `LARGE` pixels with each of `FORMS`."""
    tests = bench.test_set(quick)
    images, labels = tests.clean[:SUBSETS], tests.labels[:SUBSETS]
    large = F.interpolate(
        images.flatten(0, 1).float() / 255, size=(LARGE, LARGE), mode="bilinear", align_corners=False
    ).unflatten(0, labels.shape)
    return {
        "top1": bench.correct(bench.normalised(model, recipe), tests.clean, tests.labels),
        **{
            f"double_size_top1/{form}": bench.correct(
                bench.normalised(with_positions(model, form), recipe), large, labels
            )
            for form in FORMS
        },
    }
