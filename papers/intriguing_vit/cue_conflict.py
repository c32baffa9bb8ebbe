"""Shape against texture on canvases: the silhouette of one garment, filled with the texture of another class.

Geirhos et al., arXiv 1811.12231, make such conflicts by style transfer between photographs of 16 categories. Here the
garment's pixels are replaced by a piece from the inside of another garment, mirrored at its borders until it covers
them; where the garment is does not change. Whether a network can tell anything by either cue alone is measured
beside it: a silhouette filled with one grey value, and a canvas covered with texture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.data.composition import Composition
from common.data.fashion_mnist import load_fashion_mnist
from common.robustness.metrics.shape import shape_bias
from common.robustness.normalisation import Normalized

#: Side of the piece of texture, in pixels of the original image, whose middle it is cut from.
PIECE = 10


def textures(donors: Tensor, side: int) -> Tensor:
    """The middle of images (N, h, w), mirrored at its borders until it covers (N, side, side)."""
    start = (donors.shape[-1] - PIECE) // 2
    piece = donors[:, start : start + PIECE, start : start + PIECE]
    # Positions 0 1 .. 9 9 .. 1 0 0 1 ..: neighbours stay neighbours.
    there_and_back = torch.cat([torch.arange(PIECE), torch.arange(PIECE).flip(0)])
    positions = there_and_back.repeat(side // len(there_and_back) + 1)[:side]
    return piece[:, positions][:, :, positions]


def partners(labels: Tensor) -> Tensor:
    """For every image the index of one of another class: the next such in the order of the images, (N,)."""
    others = labels[None] != labels[:, None]
    count = len(labels)
    distance = (torch.arange(count)[None] - torch.arange(count)[:, None]) % count
    return torch.where(others, distance, count).argmin(dim=1)


def conflicts(composition: Composition) -> dict[str, Tensor]:
    """Cue conflicts of canvases with one garment each.

    Returns:
        ``conflict``, ``shape`` (silhouette alone) and ``texture`` (texture alone), images (N, H, W) uint8; ``labels``
        and ``texture_labels`` (N,), which differ.
    """
    labels, partner = composition.labels[:, 0], partners(composition.labels[:, 0])
    originals = load_fashion_mnist().test_images[composition.indices[:, 0]]
    texture, mask = textures(originals[partner], composition.images.shape[-1]), composition.masks[:, 0]
    grey = int(composition.images[mask].float().mean())
    return {
        "conflict": torch.where(mask, texture, composition.images),
        "shape": composition.images.masked_fill(mask, grey),
        "texture": texture,
        "labels": labels,
        "texture_labels": labels[partner],
    }


def decisions(
    model: nn.Module, composition: Composition, mean: Sequence[float], std: Sequence[float]
) -> dict[str, float]:
    """What a classifier (in eval mode) decides by, in per cent.

    Returns:
        ``shape_bias``, ``shape_share``, ``texture_share`` on cue conflicts; ``silhouette_top1`` and ``texture_top1``,
        the accuracy on either cue alone.
    """
    made = conflicts(composition)
    device = next(model.parameters()).device
    normalized = Normalized(model, mean, std).to(device).eval()

    @torch.inference_mode()
    def answers(name: str) -> Tensor:
        images = made[name][:, None].repeat(1, 3, 1, 1)
        return torch.cat([normalized(part.to(device).float() / 255).argmax(dim=1).cpu() for part in images.split(250)])

    shape, texture = made["labels"], made["texture_labels"]
    bias = shape_bias(answers("conflict").tolist(), shape.tolist(), texture.tolist())
    return {
        "shape_bias": 100 * bias.bias,
        "shape_share": 100 * bias.shape,
        "texture_share": 100 * bias.texture,
        "silhouette_top1": 100 * float((answers("shape") == shape).float().mean()),
        "texture_top1": 100 * float((answers("texture") == texture).float().mean()),
    }
