"""What the shift of windows computes (section 3.2, Figure 4), and how far a token sees with and without it."""

from __future__ import annotations

import itertools

import torch
from timm.models.swin_transformer import SwinTransformerBlock, SwinTransformerStage, WindowAttention
from torch import Tensor

from common.measurement import Finding

#: Influence below this share of the largest is none: the mask subtracts 100 from scores, which leaves about 1e-44.
NO_INFLUENCE = 1e-20


def cyclic_shift() -> Finding:
    """A shifted block of timm against attention within each window of the shifted partition, in float64."""
    torch.manual_seed(0)
    block = SwinTransformerBlock(12, (14, 21), num_heads=2, window_size=7, shift_size=3).double()
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    tokens = torch.randn(2, 14, 21, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = shifted_attention(block, tokens)
        error = float((block._attn(tokens) - expected).abs().max() / expected.abs().max())
    return Finding.exactly(
        name="cyclic_shift",
        statement="The cyclic shift with a mask computes attention within each window of the shifted partition.",
        holds=error < 1e-12,
        evidence=f"Largest relative difference {error:.1e} in float64 (bound 1e-12); 2 x 3 windows become 3 x 4.",
        value=error,
    )


def shifted_attention(block: SwinTransformerBlock, tokens: Tensor) -> Tensor:
    """Attention of a shifted block as it is defined: (B, H, W, C) to the same.

    Windows begin ``shift_size`` tokens later, those at the borders are smaller, and none wraps around.
    """
    result = torch.empty_like(tokens)
    spans = [
        _spans(size, window, shift)
        for size, window, shift in zip(tokens.shape[1:3], block.window_size, block.shift_size, strict=True)
    ]
    for rows, columns in itertools.product(*spans):
        result[:, rows, columns] = _attention(block.attn, tokens[:, rows, columns])
    return result


def _spans(size: int, window: int, shift: int) -> list[slice]:
    """Where the windows of the shifted partition begin and end along an axis."""
    edges = [0, *range(shift, size, window), size]
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


def _attention(attn: WindowAttention, tokens: Tensor) -> Tensor:
    """Self-attention within one window (B, H, W, C), whose biases depend on the distance of two tokens alone."""
    height, width = tokens.shape[1:3]
    place = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    distance = place[:, None] - place[None] + torch.tensor(attn.window_size) - 1
    bias = attn.relative_position_bias_table[distance[..., 0] * (2 * attn.window_size[1] - 1) + distance[..., 1]]
    q, k, v = attn.qkv(tokens.flatten(1, 2)).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-2, -1)) * attn.scale + bias.permute(2, 0, 1)
    mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    return attn.proj(mixed).unflatten(1, (height, width))


def reach(shifted: SwinTransformerStage, plain: SwinTransformerStage) -> Finding:
    """How many tokens a stage's middle token depends on, with shifted and with plain windows."""
    height, width = shifted.output_resolution
    window = plain.blocks[0].window_area
    seen = {name: influencing(stage) for name, stage in (("shifted", shifted), ("plain", plain))}
    holds = seen["plain"] == window and seen["shifted"] == height * width
    return Finding.exactly(
        name="reach",
        statement=f"{len(shifted.blocks)} blocks with shifted windows connect all tokens, plain windows never do.",
        holds=holds,
        evidence=(
            f"The middle token depends on {seen['shifted']} of {height * width} tokens with shifted windows, on "
            f"{seen['plain']} with plain ones, whose windows have {window}."
        ),
        value=float(seen["shifted"]),
    )


def influencing(stage: SwinTransformerStage) -> int:
    """The number of a stage's tokens that change its output at the middle."""
    stage = stage.double().eval()
    height, width = stage.output_resolution
    channels = stage.blocks[0].dim
    tokens = torch.randn(1, height, width, channels, dtype=torch.float64, requires_grad=True)
    stage.blocks(tokens)[0, height // 2 - 1, width // 2 - 1].sum().backward()
    assert tokens.grad is not None
    strength = tokens.grad[0].abs().amax(dim=-1)
    return int((strength > NO_INFLUENCE * strength.max()).sum())
