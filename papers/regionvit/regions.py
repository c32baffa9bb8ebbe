"""What regional tokens do: with one region, between regions, and what they cost over the area of an image.

Axes: B images, R regions, w^2 local tokens of a region, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Attention as GlobalAttention
from timm.models.vision_transformer import Block as TransformerBlock
from torch import Tensor, nn

from common import figures
from common.measurement import Finding, Picture
from common.profiling import flops
from papers.regionvit.model import Block, Stage

#: Channels, heads and window of RegionViT-S's first stage.
CHANNELS, HEADS, WINDOW = 96, 3, 7
SCORES = "attention"


def small(blocks: int, regional_attention: bool = True, window_size: int = 3) -> Stage:
    """A stage of 12 channels in float64 and eval mode."""
    torch.manual_seed(0)
    made = [Block(12, 3, window_size, regional_attention=regional_attention) for _ in range(blocks)]
    return Stage(made, window_size, nn.Identity()).double().eval()


def plain(block: Block) -> TransformerBlock:
    """The transformer block of timm with the weights of ``block``, whose scores by distance are left out."""
    norm: Any = partial(nn.LayerNorm, eps=block.norm1.eps)
    other = TransformerBlock(block.norm1.weight.numel(), block.attn.num_heads, qkv_bias=True, norm_layer=norm)
    other.to(block.norm1.weight.dtype)
    own = {name: value for name, value in block.state_dict().items() if "norm0" not in name and "rel_pos" not in name}
    other.load_state_dict(own)
    return other.eval()


@torch.no_grad()
def one_region() -> Finding:
    """A block with one region beside a transformer block over all tokens, and one with four regions beside the same."""
    block: Any = small(1, window_size=4).block[1]
    nn.init.zeros_(block.attn.rel_pos)
    x = torch.randn(8, 17, 12, dtype=torch.float64)
    token = x[:, :1]
    # Among one token attention is its value.
    value = block.attn.qkv(block.norm0(token)).chunk(3, dim=-1)[2]
    expected = plain(block)(torch.cat((token + block.attn.proj(value), x[:, 1:]), dim=1))

    def difference(images: int) -> float:
        return float((block(x, images) - expected).abs().max() / expected.abs().max())

    error, several = difference(8), difference(2)
    return Finding.exactly(
        name="one_region",
        statement=(
            "With the whole image as one region a block is a transformer block over its regional and all local tokens, "
            "where the value of the regional one is added to it first."
        ),
        holds=error < 1e-12 < several,
        evidence=(
            f"Largest relative difference {error:.1e} in float64 (bound 1e-12), {several:.1e} with four regions."
        ),
        value=error,
    )


def reached(blocks: int, regional_attention: bool = True) -> tuple[int, int]:
    """How many of 3 x 3 regions the local tokens of the first depend on: by regional tokens, by local ones."""
    stage = small(blocks, regional_attention)
    regional = torch.randn(1, 12, 3, 3, dtype=torch.float64, requires_grad=True)
    local = torch.randn(1, 12, 9, 9, dtype=torch.float64, requires_grad=True)
    first = stage(regional, local)[1][:, :, :3, :3]
    by_regional, by_local = torch.autograd.grad((first * torch.randn_like(first)).sum(), (regional, local))
    by_local = by_local.unflatten(3, (3, 3)).unflatten(2, (3, 3))
    return _nonzero(by_regional.abs().amax(dim=(0, 1))), _nonzero(by_local.abs().amax(dim=(0, 1, 3, 5)))


def _nonzero(gradients: Tensor) -> int:
    return int((gradients > 0).sum())


def reach() -> Iterator[Finding]:
    """Two blocks connect all regions, the first one by regional tokens alone, and nothing else connects them."""
    one, two, without = reached(1), reached(2), reached(2, regional_attention=False)
    yield Finding.exactly(
        name="reach",
        statement="Regional attention alone connects regions: two blocks connect all, and without it none.",
        holds=two == (9, 9) and without == (1, 1),
        evidence=(
            f"After two blocks, gradients of a region's local tokens reach the local tokens of {two[1]} of 9 regions; "
            f"without regional attention of {without[1]}, all others being exactly zero."
        ),
        value=float(without[1]),
    )
    yield Finding.exactly(
        name="first_block",
        statement="After one block they depend on all regional tokens, but on local ones of their own region only.",
        holds=one == (9, 1),
        evidence=f"Gradients reach the regional tokens of {one[0]} of 9 regions and the local tokens of {one[1]}.",
    )


def attention_cost(side: int, window_size: int = WINDOW) -> int:
    """Multiply-adds of scores and their sums over values in a block with ``side`` x ``side`` regions, as counted."""
    with torch.device("meta"):
        stage = Stage([Block(CHANNELS, HEADS, window_size)], window_size, nn.Identity())
        regional = torch.empty(1, CHANNELS, side, side)
        local = torch.empty(1, CHANNELS, side * window_size, side * window_size)
        return flops(stage, inputs=(regional, local)).by_operator[SCORES]


def closed_form(regions: int, channels: int, window_size: int) -> int:
    """The same in symbols: 2 C (R^2 + R (1 + w^2)^2)."""
    return 2 * channels * (regions**2 + regions * (1 + window_size**2) ** 2)


def global_cost(tokens: int) -> int:
    """The same of attention among all local tokens, as counted."""
    with torch.device("meta"):
        attention = GlobalAttention(CHANNELS, HEADS)
        return flops(attention, inputs=torch.empty(1, tokens, CHANNELS)).by_operator[SCORES]


def cost() -> Iterator[Finding | Picture]:
    """Attention of RegionViT-S's first stage for images of 224 to 1120 pixels."""
    sides = (8, 16, 24, 32, 40)
    areas = [(4 * WINDOW * side) ** 2 for side in sides]
    counted = [attention_cost(side) for side in sides]
    everywhere = [global_cost((WINDOW * side) ** 2) for side in sides]
    differences = [count - closed_form(side**2, CHANNELS, WINDOW) for count, side in zip(counted, sides, strict=True)]
    shares = [side**2 / (side**2 + (1 + WINDOW**2) ** 2) for side in (sides[0], sides[-1])]
    yield Finding.exactly(
        name="closed_form",
        statement="Scores and sums of attention take 2 C (R^2 + R (1 + w^2)^2) multiply-adds a block for R regions.",
        holds=not any(differences),
        evidence=(
            f"Largest difference {max(map(abs, differences))} to the count, {areas[0] ** 0.5:.0f} to "
            f"{areas[-1] ** 0.5:.0f} pixels; regional tokens take {shares[0]:.1%} to {shares[1]:.1%} of it, and "
            f"attention among all local tokens {everywhere[0] / counted[0]:.0f} to {everywhere[-1] / counted[-1]:.0f} "
            "times as much."
        ),
        value=float(max(map(abs, differences))),
    )
    yield Picture(
        name="cost",
        caption="Multiply-adds of attention in a block of RegionViT-S's first stage over the area of a square image.",
        svg=figures.curves(
            "cost",
            {
                "regional to local": (areas, [count / 1e9 for count in counted]),
                "among all local tokens": (areas, [count / 1e9 for count in everywhere]),
            },
            xlabel="pixels",
            ylabel="multiply-adds, G",
            logx=True,
            logy=True,
        ),
    )
