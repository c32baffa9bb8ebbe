"""How alike the attention of different queries is in vision transformers, and on how few tokens it rests.

Axes: B images, h heads, N patches; tokens that are no patches (the class token) are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from timm.layers import Attention
from torch import Tensor, nn

from common import bench, figures
from common.errors import UserError
from common.measurement import Picture
from common.training.recipe import Recipe
from papers.fcvit.model import GlobalContext

#: Share of a query's attention that the counted tokens hold.
HELD = 0.8
#: Cells of the bench's test set that are looked at.
CELLS = 2
BATCH = 100
SIMILARITY, TOKENS = "query_similarity", "attention_tokens"


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The attention (B, h, N, N) of each block, from patches (rows) to patches.

    Args:
        model: a vision transformer of timm, whose blocks have timm's ``Attention``.
        images: normalised, (B, 3, H, W).

    Raises:
        UserError: the model has no such attention.
    """
    layers: list[Any] = [part for part in model.modules() if isinstance(part, Attention)]
    if not layers:
        raise UserError(
            f"{type(model).__name__} has no attention that can be read; take a vision transformer of timm (DeiT, ViT)."
        )
    maps: list[Tensor] = []
    prefix = int(getattr(model, "num_prefix_tokens", 0))

    def keep(layer: Any, args: tuple[Tensor, ...]) -> None:
        q, k, _ = layer.qkv(args[0]).unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        shares = (layer.q_norm(q) @ layer.k_norm(k).transpose(2, 3) * layer.scale).softmax(dim=-1)
        maps.append(shares[:, :, prefix:, prefix:])

    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return maps


def query_similarity(attention: Tensor) -> Tensor:
    """Mean cosine between the attention of two different queries, mean over heads: (B, h, N, N) to (B,)."""
    rows = nn.functional.normalize(attention, dim=-1)
    count = rows.shape[2]
    # All pairs at once: the squared length of the sum, without each query's product with itself.
    pairs = rows.sum(dim=2).square().sum(dim=-1) - count
    return (pairs / (count * (count - 1))).mean(dim=1)


def attention_tokens(attention: Tensor) -> Tensor:
    """Smallest share of the tokens that holds `HELD` of the attention, mean over queries and heads: to (B,)."""
    held = attention.sort(dim=-1, descending=True).values.cumsum(dim=-1)
    needed = 1 + (held < HELD * held[..., -1:]).sum(dim=-1)
    return (needed / attention.shape[-1]).mean(dim=(1, 2))


def of_images(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Both quantities of each block, counted from 1, for normalised images: ``METRIC/BLOCK`` to (B,)."""
    found = {}
    for number, attention in enumerate(attention_maps(model, images), start=1):
        found[f"{SIMILARITY}/{number}"] = query_similarity(attention)
        found[f"{TOKENS}/{number}"] = attention_tokens(attention)
    return found


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray]:
    """``top1`` on all test images, and both quantities of each block on the first cells."""
    tests = bench.test_set(quick)
    classifier = bench.normalised(model, recipe)
    images = tests.clean[:CELLS]
    parts = [of_images(model, _prepared(model, recipe, part)) for part in images.flatten(0, 1).split(BATCH)]
    shape = images.shape[:2]
    return {
        "top1": bench.correct(classifier, tests.clean, tests.labels),
        **{name: torch.cat([part[name].cpu() for part in parts]).view(shape).numpy() for name in parts[0]},
    }


def _prepared(model: nn.Module, recipe: Recipe, images: Tensor) -> Tensor:
    """uint8 images as ``model`` was trained on them."""
    mean, std = (torch.tensor(bench.per_channel(values)).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    return ((images / 255 - mean) / std).to(next(model.parameters()).device)


def by_block(scores: bench.Scores, model: str) -> bench.Scores:
    """The blocks of ``model`` as contenders ``MODEL.block_N``, and ``a_fifth_of_tokens`` to compare them with."""
    blocks = [name.partition("/")[2] for name in scores.metrics if name.startswith(f"{SIMILARITY}/")]
    found = {}
    for seed in scores.seeds:
        own = scores.values[model, seed]
        for block in blocks:
            quantities = {metric: own[f"{metric}/{block}"] for metric in (SIMILARITY, TOKENS)}
            found[f"{model}.block_{block}", seed] = {"top1": own["top1"], **quantities}
        fifth = np.full_like(own[f"{TOKENS}/{blocks[0]}"], 0.2)
        found["a_fifth_of_tokens", seed] = {"top1": own["top1"], SIMILARITY: fifth, TOKENS: fifth}
    return bench.Scores(found)


def picture(vit: nn.Module, fcvit: nn.Module, recipe: Recipe, quick: bool, rows: int = 4) -> Picture:
    """Images, the last attention of a vision transformer for three queries, and what FCViT takes of its context."""
    images = bench.test_set(quick).clean[0, :rows]
    attention = attention_maps(vit, _prepared(vit, recipe, images))[-1].mean(dim=1)
    side = round(attention.shape[-1] ** 0.5)
    queries = [(1, 1), (side // 2, side // 2), (side - 2, side - 2)]
    shares = last_similarity(fcvit, _prepared(fcvit, recipe, images)).mean(dim=1)
    columns = ["image", *(f"query {y + 1}, {x + 1}" for y, x in queries), "FCViT"]
    with figures.figure("queries", width=1.2 * len(columns), height=1.15 * rows + 0.3) as drawn:
        for row, axes in enumerate(drawn.subplots(rows, len(columns))):
            axes[0].imshow(images[row].permute(1, 2, 0).numpy())
            for axis, (y, x) in zip(axes[1:], queries, strict=False):
                axis.imshow(attention[row, y * side + x].view(side, side).cpu().numpy(), cmap="viridis", vmin=0)
                axis.plot(x, y, marker="o", color="white", markeredgecolor="black", markersize=5)
            axes[-1].imshow(shares[row].cpu().numpy(), cmap="viridis")
            for axis, title in zip(axes, columns, strict=True):
                axis.set(xticks=[], yticks=[])
                if row == 0:
                    axis.set_title(title, fontsize=8)
        svg = figures.to_svg(drawn)
    return Picture(
        name="queries",
        caption=(
            f"The first test images; the last attention of vit_mini, mean over heads, of three queries (row, column; "
            f"marked) over {side} x {side} patches; and the last similarity of fcvit_mini to the mean position, by "
            "which a position takes of the context."
        ),
        svg=svg,
    )


@torch.no_grad()
def last_similarity(model: nn.Module, images: Tensor) -> Tensor:
    """Similarities (B, h, H, W) of the last global context for normalised images."""
    last = [part for part in model.modules() if isinstance(part, GlobalContext)][-1]
    kept: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda layer, args: kept.append(last.similarity(args[0])))
    try:
        model(images)
    finally:
        handle.remove()
    return kept[0]
