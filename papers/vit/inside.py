"""What a vision transformer has learnt about the grid: in its position embeddings, and in where its heads look.

Networks are timm's ``VisionTransformer`` with a class token. Axes: B images, N tokens, n = rows x columns patches, h
heads, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common import bench, figures
from common.measurement import Picture
from common.training.recipe import Recipe


def similarity(model: Any) -> Tensor:
    """The cosines (n, n) of the position embeddings of patches."""
    positions = F.normalize(model.pos_embed.detach()[0, model.num_prefix_tokens :], dim=1)
    return positions @ positions.T


def distances(model: Any) -> Tensor:
    """How far patches are from each other, (n, n), in pixels."""
    rows, columns = model.patch_embed.grid_size
    height, width = model.patch_embed.patch_size
    y, x = torch.meshgrid(torch.arange(rows) * float(height), torch.arange(columns) * float(width), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], dim=1)
    return torch.cdist(places, places)


def nearness(model: Any) -> float:
    """The correlation of the similarity of two patches' positions with their distance, in [-1, 1], turned around."""
    alike = similarity(model).cpu()
    first, second = torch.triu_indices(len(alike), len(alike), 1)
    pairs = torch.stack([alike[first, second], distances(model)[first, second]])
    return -float(torch.corrcoef(pairs)[0, 1])


def attention_distances(model: Any, x: Tensor) -> list[Tensor]:
    """The mean distance (B, h), in pixels, from a patch to the patches that it attends to, after each block.

    Weights of the class token are left out; those of the patches are taken to sum to one.
    """
    far = distances(model).to(x.device)
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
    found = []
    for block in model.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(tokens)).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (part[:, :, model.num_prefix_tokens :] for part in qkv[:2])
        weights = (attention.q_norm(q) @ attention.k_norm(k).mT * attention.scale).softmax(dim=3)  # (B, h, n, n)
        found.append((weights * far).sum(dim=3).mean(dim=2))
        tokens = block(tokens)
    return found


def measure(model: Any, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """``top1``, ``position_nearness``, and ``attention_distance/BLOCK`` by image and ``attention_distance/BLOCK.HEAD``.

    Distances are over the first of the subsets of the test images.
    """
    tests = bench.test_set(quick)
    device = next(model.parameters()).device
    mean, std = (torch.tensor(bench.per_channel(v), device=device).view(1, 3, 1, 1) for v in (recipe.mean, recipe.std))
    with torch.inference_mode():
        batches = [
            attention_distances(model, (part.to(device).float() / 255 - mean) / std)
            for part in tests.clean[0].split(250)
        ]
    blocks = [torch.cat(parts).cpu().numpy() for parts in zip(*batches, strict=True)]
    return {
        "top1": bench.correct(bench.normalised(model, recipe), tests.clean, tests.labels),
        "position_nearness": nearness(model),
        **{f"attention_distance/{number}": heads.mean(axis=1)[None] for number, heads in enumerate(blocks, 1)},
        **{
            f"attention_distance/{number}.{head}": float(values.mean())
            for number, heads in enumerate(blocks, 1)
            for head, values in enumerate(heads.T, 1)
        },
    }


def position_picture(model: Any, seed: int) -> Picture:
    """A map for each patch: how alike its position embedding is to those of all patches."""
    rows, columns = model.patch_embed.grid_size
    # A gap of one place between the maps, in both directions.
    mosaic = np.full((rows, rows + 1, columns, columns + 1), np.nan)
    maps = similarity(model).cpu().numpy().reshape(rows, columns, rows, columns)
    mosaic[:, :rows, :, :columns] = maps.transpose(0, 2, 1, 3)
    with figures.figure("positions", width=4.4, height=4.4) as drawn:
        axis = drawn.subplots()
        shown = axis.imshow(mosaic.reshape(rows * (rows + 1), -1)[:-1, :-1], vmin=-1, vmax=1, cmap="viridis")
        axis.set_axis_off()
        drawn.colorbar(shown, ax=axis, orientation="horizontal", shrink=0.6, label="cosine")
        svg = figures.to_svg(drawn)
    return Picture(
        name="positions",
        caption=(
            "Similarity of position embeddings: a map for each patch, at its place, of the cosines with all patches "
            f"(vit_mini, seed {seed})."
        ),
        svg=svg,
    )


def distance_picture(by_head: np.ndarray) -> Picture:
    """Mean attention distance over depth, a point for each head and seed.

    Args:
        by_head: (blocks, heads, seeds), in pixels.
    """
    with figures.figure("attention_distance", width=4.4, height=3.0) as drawn:
        axis = drawn.subplots()
        blocks = range(1, len(by_head) + 1)
        for block, values in zip(blocks, by_head, strict=True):
            axis.plot([block] * values.size, values.ravel(), "o", color=figures.COLOURS[0], markersize=4, alpha=0.6)
        axis.plot(blocks, by_head.mean(axis=(1, 2)), color=figures.COLOURS[0], linewidth=1.5)
        axis.set_xticks(list(blocks))
        axis.set_xlabel("block")
        axis.set_ylabel("mean attention distance, pixels")
        axis.grid(axis="y")
        svg = figures.to_svg(drawn)
    return Picture(
        name="attention_distance",
        caption="Mean attention distance by depth; a point is one head of one seed, the line their mean.",
        svg=svg,
    )


def heads_of(scores: bench.Scores, contender: str) -> np.ndarray:
    """Attention distances by head, (blocks, heads, seeds), as `measure` gave them."""
    names = [name.removeprefix("attention_distance/") for name in scores.metrics if name.count(".") == 1]
    places = [tuple(int(number) for number in name.split(".")) for name in names]
    found = np.zeros((max(b for b, _ in places), max(h for _, h in places), len(scores.seeds)))
    for (block, head), name in zip(places, names, strict=True):
        found[block - 1, head - 1] = scores.per_seed(contender, f"attention_distance/{name}")
    return found
