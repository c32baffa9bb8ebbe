"""What attention does inside a vision transformer: how far it looks, and which way.

Axes: B images, L blocks, h heads, N tokens of which the first is the class token, g x g patches. Attention is
(B, L, h, N, N), its rows sum to 1. Distances are in units of the image's side, with the patches of the outermost rows
and columns on its edges: neighbours are 1 / (g - 1) apart.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.errors import UserError


def grid_side(attention: Tensor) -> int:
    """Patches on a side, g.

    Raises:
        UserError: the tokens are no class token and a square of 2 x 2 patches or more.
    """
    side = math.isqrt(attention.shape[-1] - 1)
    if side < 2 or side**2 != attention.shape[-1] - 1:
        raise UserError(f"{attention.shape[-1]} tokens are no class token and a square of patches; take such a model.")
    return side


def among_patches(attention: Tensor) -> Tensor:
    """Attention from patches to patches, (..., g * g, g * g), as if there were no class token.

    Rows sum to 1; one that has nothing for patches stays 0.
    """
    patches = attention[..., 1:, 1:]
    sums = patches.sum(dim=-1, keepdim=True)
    return patches / torch.where(sums == 0, 1, sums)


def attention_distance(attention: Tensor) -> Tensor:
    """How far from a patch what it attends to lies, mean over patches, (B, L, h)."""
    side = grid_side(attention)
    line = torch.linspace(0, 1, side, device=attention.device)
    places = torch.cartesian_prod(line, line)
    far = (places[:, None] - places[None]).square().sum(dim=-1).sqrt()  # exact, unlike torch.cdist
    return (among_patches(attention) * far).sum(dim=-1).mean(dim=-1)


def attention_on_class(attention: Tensor, *, released: bool = False) -> Tensor:
    """What patches take from the class token, mean over patches, (B, L, h).

    Args:
        released: what they take from the first patch, which is the token that the released code reads.
    """
    return attention[..., 1:, int(released)].mean(dim=-1)


def deviation_over_positions(attention: Tensor) -> Tensor:
    """How much attention to a patch depends on which patch asks: standard deviation, mean over patches, (B, L, h)."""
    return attention[..., 1:, 1:].std(dim=-2).mean(dim=-1)


def deviation_over_heads(attention: Tensor) -> Tensor:
    """How much the heads of a block differ: standard deviation over heads, mean over pairs of patches, (B, L)."""
    return attention[..., 1:, 1:].std(dim=2).mean(dim=(-2, -1))


def deviation_over_classes(attention: Tensor, labels: Tensor) -> Tensor:
    """How much attention to a token depends on the image's class: standard deviation, mean over tokens, (L, h).

    Args:
        attention: of images of two classes at least.
        labels: (B,), the class of each image.
    """
    return received_by_class(attention, labels).std(dim=0, correction=0).mean(dim=-1)


def received(attention: Tensor, source: str = "all") -> Tensor:
    """Attention that each token receives, mean over images, (L, h, N).

    Args:
        source: ``all``: mean over all tokens that ask; ``patches``: over patches; ``class``: by the class token;
            ``patches_to_patches``: over patches, rows divided by what they have for patches; the class token gets 0.

    Raises:
        UserError: there is no such source.
    """
    if source == "all":
        given = attention.mean(dim=-2)
    elif source == "patches":
        given = attention[..., 1:, :].mean(dim=-2)
    elif source == "class":
        given = attention[..., 0, :]
    elif source == "patches_to_patches":
        given = torch.nn.functional.pad(among_patches(attention).mean(dim=-2), (1, 0))
    else:
        raise UserError(f"attention comes from all, patches, class or patches_to_patches, not {source!r}.")
    return given.mean(dim=0)


def received_by_class(attention: Tensor, labels: Tensor) -> Tensor:
    """``received`` from all tokens, mean over the images of each class in rising order, (classes, L, h, N)."""
    return torch.stack([received(attention[labels == label]) for label in labels.unique()])


def aligned(attention: Tensor) -> Tensor:
    """Attention by displacement: each patch's map moved so that the patch is in the middle, mean over images.

    A displacement counts as often as the grid has it, seldom where it is long, so that a map sums to 1.

    Returns:
        (L, h, 2 g - 1, 2 g - 1): rows are displacements down, columns to the right, from - (g - 1) to g - 1 patches.
    """
    side = grid_side(attention)
    maps = among_patches(attention).mean(dim=0).unflatten(-1, (side, side))  # (L, h, g * g, g, g)
    moved = maps.new_zeros(*maps.shape[:2], 2 * side - 1, 2 * side - 1)
    for place, one in enumerate(maps.unbind(dim=2)):
        down, right = divmod(place, side)
        top, left = side - 1 - down, side - 1 - right
        moved[..., top : top + side, left : left + side] += one
    return moved / side**2


def offsets(moved: Tensor) -> Tensor:
    """Where the middle of a head's attention lies from the patch that asks, (L, h, 2): down and to the right.

    Args:
        moved: of ``aligned``, of any scale; a map that is 0 everywhere has no offset.

    Returns:
        In units of the image's side. Their norm is what the publication calls the offset of a head.
    """
    moved = moved.double()
    line = torch.linspace(-1, 1, moved.shape[-1], dtype=moved.dtype, device=moved.device)
    mass = moved.sum(dim=(-2, -1)).clamp_min(torch.finfo(moved.dtype).tiny)
    down = (moved * line[:, None]).sum(dim=(-2, -1)) / mass
    right = (moved * line).sum(dim=(-2, -1)) / mass
    return torch.stack([down, right], dim=-1)


def offset_attention(attention: Tensor) -> Tensor:
    """What a head gives to one neighbour in the same direction everywhere, (L, h) in [0, 1].

    Of the eight displacements to an adjacent patch the one that gets most, mean over images and over the patches that
    have this neighbour. Attention that is spread evenly gives 1 / (g * g).
    """
    side = grid_side(attention)
    counts = side - torch.arange(1 - side, side, device=attention.device).abs()  # patches that have a neighbour there
    shares = aligned(attention) * side**2 / torch.outer(counts, counts)
    near = shares[..., side - 2 : side + 1, side - 2 : side + 1].flatten(-2)
    return torch.cat([near[..., :4], near[..., 5:]], dim=-1).amax(dim=-1)


def attention_masks(
    attention: Tensor, source: str, mass: float, *, merge: bool = False, equal_heads: bool = False
) -> Tensor:
    """The patches that hold most of the attention from a source, (..., h, g, g) bool; h is 1 where heads are merged.

    Args:
        attention: (..., h, N, N).
        source: ``class``: the class token; ``patches``: all patches; ``centre``: the middle patch, see
            ``centre_row``.
        mass: share of the attention to patches that is kept.
        merge: add the heads up first.
        equal_heads: let heads count the same when they are added up, and not by what they have for patches; so it comes
            out in the released code for ``class`` and ``centre``, whose rows an earlier call has divided in place.

    Raises:
        UserError: there is no such source.
    """
    side = grid_side(attention)
    to_patches = attention[..., 1:]
    if source == "class":
        given = to_patches[..., 0, :]
    elif source == "patches":
        given = to_patches[..., 1:, :].sum(dim=-2)
    elif source == "centre":
        given = to_patches[..., centre_row(side), :]
    else:
        raise UserError(f"a mask is made of the attention of class, patches or centre, not of {source!r}.")
    if merge:
        heads = given / given.sum(dim=-1, keepdim=True) if equal_heads else given
        given = heads.sum(dim=-2, keepdim=True)
    given = given / given.sum(dim=-1, keepdim=True)
    ascending, order = given.sort(dim=-1)
    ascending = ascending / ascending.sum(dim=-1, keepdim=True)
    kept = ascending.cumsum(dim=-1) > 1 - mass
    return torch.zeros_like(kept).scatter(-1, order, kept).unflatten(-1, (side, side))


def centre_row(side: int) -> int:
    """The row of attention of the middle patch, row 0 being the class token's; in an even grid the first of four."""
    middle = (side + 1) // 2
    return (middle - 1) * side + middle


def iou(masks: Tensor, objects: Tensor) -> Tensor:
    """Intersection over union of masks (..., g, g) with objects (..., g, g), both bool, of broadcast shapes; (...)."""
    both = (masks & objects).sum(dim=(-2, -1))
    either = (masks | objects).sum(dim=(-2, -1))
    return both / either
