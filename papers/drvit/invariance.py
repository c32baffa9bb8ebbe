"""What holds exactly: of code words and their margin, and of fused tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from common.measurement import Finding
from papers.drvit.model import CodeEmbed, Codes
from papers.drvit.vq import Encoder, margin, nearest_code

#: Shares of its margin by which a feature is moved.
WITHIN, BEYOND = 0.999, 1.001


def nearest_border(features: Tensor, codebook: Tensor) -> Tensor:
    """The direction (N, D), of length 1, in which each of the features (N, D) first meets another word's cell."""
    chosen = nearest_code(features, codebook)
    own = codebook[chosen]
    ways = codebook - own[:, None]  # (N, K, D)
    lengths = ways.norm(dim=2)
    farther = (features[:, None] - codebook).square().sum(2) - (features - own).square().sum(1, keepdim=True)
    distances = (farther / (2 * lengths)).masked_fill(lengths == 0, torch.inf)
    other = distances.argmin(dim=1)
    return F.normalize(ways[torch.arange(len(features)), other], dim=1)


def margins(seed: int, count: int = 500, words: int = 64, dim: int = 16) -> Iterator[Finding]:
    """Move random features by a little less, and by a little more, than their margin."""
    generator = torch.Generator().manual_seed(seed)
    codebook = torch.randn(words, dim, generator=generator, dtype=torch.float64)
    features = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    chosen, room = nearest_code(features, codebook), margin(features, codebook)[:, None]
    border = nearest_border(features, codebook)
    anywhere = F.normalize(torch.randn(20, count, dim, generator=generator, dtype=torch.float64), dim=2)
    inside = torch.cat([border[None], anywhere]) * room * WITHIN
    stayed = int((nearest_code(features + inside, codebook) == chosen).sum())
    left = int((nearest_code(features + border * room * BEYOND, codebook) != chosen).sum())
    moves = len(inside) * count
    yield Finding.exactly(
        name="margin",
        statement="Moved by less than its margin in any direction a feature keeps its word; by more, it may lose it.",
        holds=stayed == moves and left == count,
        evidence=(
            f"{stayed} of {moves} moves by {WITHIN} of the margin kept the word; {left} of {count} by {BEYOND} of it "
            "towards the nearest border changed it."
        ),
        value=float(moves - stayed + count - left),
    )


def fused_tokens(seed: int) -> Iterator[Finding]:
    """Take a fused token apart, and ask which parts of it an image has gradients from."""
    torch.manual_seed(seed)
    codes = Codes(Encoder(8, 8, (1, 1, 1), 1, groups=4), words=16)
    embed = CodeEmbed(16, 4, 3, 24, fusion_dim=6, codes=codes)
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    found = embed(images)
    pixels, words, zeros = found.split((6, 8, 10), dim=2)
    difference = max(
        float(part.detach().abs().max())
        for part in (
            pixels - embed.proj(images).flatten(2).mT,
            words - codes.codebook[codes.indices(images)].flatten(1, 2),
            zeros,
        )
    )
    yield Finding.exactly(
        name="layout",
        statement="A fused token is the projection of its pixels, its code word, and zeros.",
        holds=difference == 0,
        evidence=f"The largest difference is {difference:.1e}.",
        value=difference,
    )
    gradient = torch.autograd.grad(found.square().sum(), images, retain_graph=True)[0]
    expected = torch.autograd.grad(embed.proj(images).square().sum(), images)[0]
    offsets = torch.autograd.grad(words.sum(), embed.codes.delta, allow_unused=True)[0]  # type: ignore[arg-type]
    blind = bool(torch.equal(gradient, expected)) and offsets is not None
    yield Finding.exactly(
        name="blocked_gradient",
        statement="The gradient of an image passes through its pixels alone, so that attacks by gradient see no words.",
        holds=blind,
        evidence=(
            "The gradient of fused tokens is that of their pixels, to the last digit."
            if blind
            else "The gradient of fused tokens is another than that of their pixels."
        ),
        value=float((gradient - expected).abs().max()),
    )
