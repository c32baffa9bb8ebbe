"""Occlusion and shuffling of patches (Naseer et al., Intriguing Properties of Vision Transformers, arXiv 2105.10497).

All functions take images ``(B, C, H, W)`` in pixel space, before normalisation: a dropped patch is black, not the
mean colour. A grid has ``(rows, columns)`` tiles, numbered row by row. Tiles that are shuffled must be of one size;
those that are dropped differ by a pixel where the grid does not divide the image evenly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from common.errors import UserError
from common.robustness.draws import given, permutations

#: ``(rows, columns)``, or one number for both.
Grid = int | tuple[int, int]

#: Tiles that the publication drops of 196: 0, 10, ... 90 per cent, rounded down.
DROP_SHARES = tuple(tenths / 10 for tenths in range(10))


def random_drop(
    images: Tensor,
    count: int,
    *,
    grid: Grid = 14,
    offset: int = 0,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | None = None,
    draws: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Images with ``count`` random tiles black.

    Args:
        images: ``(B, C, H, W)``, at least a pixel a tile.
        count: number of tiles to drop, at most rows x columns.
        grid: of the tiles; 14 is the grid of 16-pixel patches at 224 pixels.
        offset: shift the dropped area down and right by so many pixels; the first rows and columns stay as they
            are. The publication uses half a patch to drop across the borders of tokens.
        generator: drops the same tiles in the whole batch, as the released evaluation.
        seeds: one seed an image instead, which drops others in each.
        draws: ``dropped`` (count,) or (B, count), tile indices, instead.
    """
    rows, columns = grid_of(images, grid)
    tiles = rows * columns
    if not 0 <= count <= tiles:
        raise UserError(f"{count} tiles cannot be dropped from a grid of {rows}x{columns}; use 0 to {tiles}.")
    indices = torch.empty(0, dtype=torch.long, device=images.device)
    dropped = given(draws or {}, "dropped", indices, (count,), (len(images), count))
    if dropped is None:
        dropped = permutations(len(images), tiles, generator, seeds)[..., :count].to(images.device)
    kept = torch.ones((*dropped.shape[:-1], tiles), dtype=images.dtype, device=images.device)
    kept = kept.scatter(-1, dropped, 0).view(-1, 1, rows, columns)
    mask = _to_pixels(kept, images)
    if offset:
        shifted = torch.ones_like(mask)
        shifted[..., offset:, offset:] = mask[..., :-offset, :-offset]
        mask = shifted
    return images * mask


def salient_tiles(attention: Tensor, share: float) -> Tensor:
    """The most attended tiles that together hold about ``share`` of the attention.

    Args:
        attention: ``(B, N)``, not negative; the publication takes the class token's attention to the patches in head
            1 (the second) of the last block of DINO ViT-S/16. It is normalised to a sum of 1 here.
        share: of the attention mass (not of the tiles), in [0, 1].

    Returns:
        ``(B, N)`` bool: from the smallest up, tiles whose cumulative share of the mass exceeds ``1 - share``.
    """
    ascending, order = attention.sort(dim=1)
    mass = (ascending / ascending.sum(dim=1, keepdim=True)).cumsum(dim=1)
    return torch.zeros_like(attention, dtype=torch.bool).scatter(1, order, mass > 1 - share)


def drop_tiles(images: Tensor, dropped: Tensor, *, grid: Grid = 14) -> Tensor:
    """Images with the tiles black where ``dropped`` ``(B, rows * columns)`` is true.

    With ``salient_tiles(attention, share)`` this is the salient drop, with its complement the non-salient drop.
    """
    rows, columns = grid_of(images, grid)
    if dropped.shape != (len(images), rows * columns):
        raise UserError(
            f"the choice of tiles has shape {tuple(dropped.shape)} where {(len(images), rows * columns)} is needed."
        )
    return images * _to_pixels((~dropped).to(images.dtype).view(-1, 1, rows, columns), images)


def shuffle_tiles(
    images: Tensor,
    *,
    grid: Grid,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | None = None,
    draws: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Images whose tiles are permuted: tile ``k`` of the result is tile ``permutation[k]`` of the image.

    Args:
        images: ``(B, C, H, W)``.
        grid: of the tiles; it must divide the images evenly.
        generator: draws one permutation for the batch, as the released evaluation.
        seeds: one seed an image instead, which gives each its own.
        draws: ``permutation`` (N,) or (B, N) instead.
    """
    rows, columns = grid_of(images, grid)
    batch, channels, height, width = images.shape
    if height % rows or width % columns:
        raise UserError(f"a grid of {rows}x{columns} tiles does not divide images of {height}x{width} pixels evenly.")
    number = rows * columns
    indices = torch.empty(0, dtype=torch.long, device=images.device)
    permutation = given(draws or {}, "permutation", indices, (number,), (batch, number))
    if permutation is None:
        permutation = permutations(batch, number, generator, seeds).to(images.device)
    permutation = permutation.expand(batch, -1)
    tiles = images.view(batch, channels, rows, height // rows, columns, width // columns)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    tiles = tiles[torch.arange(batch, device=images.device)[:, None], permutation]
    tiles = tiles.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5)
    return tiles.reshape(images.shape)


def grid_of(images: Tensor, grid: Grid) -> tuple[int, int]:
    """``(rows, columns)`` of ``grid``, checked to leave each tile a pixel of the images."""
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    height, width = images.shape[-2:]
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise UserError(f"a grid of {rows}x{columns} tiles does not fit images of {height}x{width} pixels.")
    return rows, columns


def _to_pixels(tiles: Tensor, images: Tensor) -> Tensor:
    """Repeat values ``(B, 1, rows, columns)`` over the pixels of their tile."""
    for axis in (2, 3):
        length, count = images.shape[axis], tiles.shape[axis]
        tile_of_pixel = torch.arange(length, device=images.device) * count // length
        tiles = tiles.index_select(axis, tile_of_pixel)
    return tiles
