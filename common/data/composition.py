"""The embedded composition: garments of Fashion-MNIST on a canvas, with exact boxes, masks and a semantic map.

It stands in for COCO and ADE20K where those are not at hand, and gives images whose object mask is known, for
measuring how much attention falls on the object. Drawing works like this, the same for every canvas:

- Background first: black, then uniform noise, then clutter, i.e. square pieces cut from other garments, as in the
  cluttered digits of Mnih et al., "Recurrent Models of Visual Attention", 2014, arXiv 1406.6247, section 4.1.
- Then the garments, one after another, each scaled to a whole number of pixels and put at a whole pixel, entirely
  inside the canvas. A garment's pixels are those brighter than ``SPECK``; they replace what is there.
- Overlap: a later garment covers an earlier one. Of ``TRIES`` random positions, a garment takes the first that leaves
  every earlier one at least ``VISIBLE`` of its pixels; if there is none, it is left out. The first is always there.
- A mask has the pixels that can be seen, and each pixel belongs to one garment at most. Boxes enclose the masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError

#: Grey values up to this one are not garment: the photographs' background is 0, with faint specks around the garment.
SPECK = 8
#: Random positions tried for each garment.
TRIES = 8
#: Share of a garment's pixels that later garments must leave visible.
VISIBLE = 0.5
#: Side of a piece of clutter, in pixels.
PIECE = 8


@dataclass(frozen=True)
class Background:
    """What is behind the garments.

    Attributes:
        noise: pixels are uniform in [0, noise], as a share of white; 0 is black.
        clutter: number of ``PIECE`` x ``PIECE`` pieces of other garments, at random places.
    """

    noise: float = 0.0
    clutter: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise UserError(f"The background's noise must lie in [0, 1], not {self.noise}.")
        if self.clutter < 0:
            raise UserError(f"The background cannot have {self.clutter} pieces of clutter; give 0 or more.")


@dataclass(frozen=True, eq=False)
class Composition:
    """N canvases of H x W pixels with at most M garments each; places without a garment are empty.

    Attributes:
        images: (N, H, W) uint8.
        masks: (N, M, H, W) bool, the visible pixels of each garment; later garments are in front.
        boxes: (N, M, 4) float32, x1, y1, x2, y2 in pixels, x2 and y2 exclusive; zeros where there is no garment.
        labels: (N, M) int64, -1 where there is no garment.
        semantic: (N, H, W) int64, 0 for background, 1 + label for a garment.
        indices: (N, M) int64, which of the given images it is; -1 where there is no garment.
    """

    images: Tensor
    masks: Tensor
    boxes: Tensor
    labels: Tensor
    semantic: Tensor
    indices: Tensor

    @property
    def present(self) -> Tensor:
        """(N, M) bool: where there is a garment."""
        return self.labels >= 0


def compose(
    images: Tensor,
    labels: Tensor,
    *,
    count: int,
    generator: torch.Generator,
    size: int = 56,
    garments: tuple[int, int] = (1, 3),
    scale: tuple[float, float] = (0.75, 1.25),
    background: Background = Background(),
) -> Composition:
    """Draw canvases with several garments each, chosen at random with replacement.

    Args:
        images: (K, h, w) uint8 to choose from.
        labels: (K,) int64, 0 or more.
        count: number of canvases, N.
        generator: on the CPU; the result depends on nothing else.
        size: side of the canvas in pixels.
        garments: fewest and most garments a canvas, drawn uniformly; M is the latter. A garment that fits nowhere
            (see the overlap rule above) is left out, so a crowded canvas can have fewer.
        scale: smallest and largest factor on the garment's own size, drawn uniformly.
        background: what is behind.

    Raises:
        UserError: an argument is out of range, or the largest garment does not fit the canvas.
    """
    fewest, most = garments
    if not 1 <= fewest <= most:
        raise UserError(f"Garments per canvas must be a range from 1 up, not {fewest} to {most}.")
    if not 0 < scale[0] <= scale[1]:
        raise UserError(f"The scale must be a range above 0, not {scale[0]} to {scale[1]}.")
    _check_images(images, labels)
    indices = torch.randint(len(images), (count, most), generator=generator)
    wanted = torch.randint(fewest, most + 1, (count,), generator=generator)
    factors = scale[0] + (scale[1] - scale[0]) * torch.rand(count, most, generator=generator)
    sides = (factors * images.shape[-1]).round().long().clamp(min=1)
    indices[torch.arange(most) >= wanted[:, None]] = -1
    return _draw(images, labels, indices, sides, size, background, generator)


def place_on_canvas(
    images: Tensor,
    labels: Tensor,
    *,
    size: int,
    generator: torch.Generator,
    side: int | None = None,
    background: Background = Background(clutter=8),
) -> Composition:
    """Put each image, one a canvas and in the given order, at a random place on a cluttered canvas.

    Args:
        images: (N, h, w) uint8; the clutter is cut from them, too.
        labels: (N,) int64, 0 or more.
        size: side of the canvas, i.e. the model's input size, in pixels.
        generator: on the CPU; the result depends on nothing else.
        side: side of the garment's frame in pixels; default half the canvas.
        background: what is behind.

    Returns:
        A composition with M = 1: ``masks[:, 0]`` is the object, ``semantic == 0`` everything else.

    Raises:
        UserError: an argument is out of range, or the garment does not fit the canvas.
    """
    _check_images(images, labels)
    indices = torch.arange(len(images))[:, None]
    sides = torch.full_like(indices, size // 2 if side is None else side)
    return _draw(images, labels, indices, sides, size, background, generator)


def _check_images(images: Tensor, labels: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 3 or images.shape[-1] != images.shape[-2] or not len(images):
        raise UserError(f"Images must be uint8 (K, h, h) with K > 0, not {images.dtype} {tuple(images.shape)}.")
    if labels.shape != images.shape[:1] or (labels < 0).any():
        raise UserError(f"Labels must be {len(images)} numbers from 0 up, one an image.")


def _draw(
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    sides: Tensor,
    size: int,
    background: Background,
    generator: torch.Generator,
) -> Composition:
    count, most = indices.shape
    if sides.min() < 1 or sides.max() > size:
        raise UserError(f"A garment of {int(sides.max())} pixels does not fit a canvas of {size}.")
    canvas = _background(images, count, size, background, generator).flatten(1)
    # Which garment a pixel belongs to; most stands for the background.
    owner = torch.full((count, size * size), most, dtype=torch.int64)
    indices = indices.clone()
    areas: list[Tensor] = []  # pixels of each garment so far, the hidden ones included
    for place in range(most):
        patches = _scaled(images[indices[:, place].clamp(min=0)], sides[:, place])
        solid = (patches > SPECK).flatten(1)
        corners = _corners(TRIES if place else 1, sides[:, place], size, generator)
        pixels = _pixels(corners, patches.shape[-1], size)
        choice, fits = _first_fitting(owner, pixels, solid, areas)
        present = (indices[:, place] >= 0) & fits & solid.any(1)
        indices[~present, place] = -1
        pixels = pixels[choice, torch.arange(count)]
        row, column = (solid & present[:, None]).nonzero(as_tuple=True)
        target = pixels[row, column]
        canvas[row, target] = patches.flatten(1)[row, column]
        owner[row, target] = place
        areas.append(solid.sum(1) * present)
    masks = (owner[:, None] == torch.arange(most)[:, None]).view(count, most, size, size)
    present_labels = torch.where(indices >= 0, labels[indices.clamp(min=0)], -1)
    with_background = torch.cat([present_labels, torch.full((count, 1), -1)], dim=1)
    return Composition(
        images=canvas.view(count, size, size),
        masks=masks,
        boxes=_boxes(masks),
        labels=present_labels,
        semantic=with_background.gather(1, owner).view(count, size, size) + 1,
        indices=indices,
    )


def _background(images: Tensor, count: int, size: int, background: Background, generator: torch.Generator) -> Tensor:
    canvas = torch.zeros(count, size, size, dtype=torch.uint8)
    if background.noise:
        brightest = round(255 * background.noise)
        canvas = torch.randint(brightest + 1, canvas.shape, generator=generator, dtype=torch.uint8)
    if background.clutter:
        piece = min(PIECE, size, images.shape[-1])
        shape = (count, background.clutter)
        windows = images.unfold(1, piece, 1).unfold(2, piece, 1)  # (K, positions, positions, piece, piece), a view
        which = torch.randint(len(images), shape, generator=generator)
        down, right = torch.randint(windows.shape[1], (2, *shape), generator=generator)
        top, left = torch.randint(size - piece + 1, (2, *shape), generator=generator)
        span = torch.arange(piece)
        for number in range(background.clutter):  # one after another, since pieces may overlap
            pieces = windows[which[:, number], down[:, number], right[:, number]]
            rows = (top[:, number, None] + span)[:, :, None]
            columns = (left[:, number, None] + span)[:, None, :]
            everyone = torch.arange(count)[:, None, None]
            canvas[everyone, rows, columns] = torch.where(pieces > SPECK, pieces, canvas[everyone, rows, columns])
    return canvas


def _scaled(images: Tensor, sides: Tensor) -> Tensor:
    """Scale (N, h, h) images to their own ``sides``; the result is (N, S, S), S the largest, padded with zeros."""
    largest = int(sides.max())
    scaled = torch.zeros(len(images), largest, largest, dtype=torch.uint8)
    for side in sides.unique().tolist():
        chosen = sides == side
        group = images[chosen]
        if side != images.shape[-1]:
            group = F.interpolate(
                group[:, None].float(), size=(side, side), mode="bilinear", antialias=True, align_corners=False
            )[:, 0]
            group = group.round().clamp(0, 255).to(torch.uint8)
        scaled[chosen, :side, :side] = group
    return scaled


def _corners(tries: int, sides: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """(tries, N, 2) upper left corners (y, x), uniform over the places where the frame is inside the canvas."""
    room = (size - sides + 1)[:, None]
    return (torch.rand(tries, len(sides), 2, generator=generator, dtype=torch.float64) * room).long()


def _pixels(corners: Tensor, side: int, size: int) -> Tensor:
    """(tries, N, side * side) flat positions on the canvas; padding that sticks out is moved to the edge."""
    span = torch.arange(side)
    rows = (corners[..., :1] + span).clamp(max=size - 1)
    columns = (corners[..., 1:] + span).clamp(max=size - 1)
    return (rows[..., :, None] * size + columns[..., None, :]).flatten(-2)


def _first_fitting(owner: Tensor, pixels: Tensor, solid: Tensor, areas: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the first try that leaves each earlier garment visible enough, and whether there is one, both (N,)."""
    fits = torch.ones(pixels.shape[:2], dtype=torch.bool)
    for earlier, area in enumerate(areas):
        seen = owner == earlier
        covered = torch.stack([(seen.gather(1, attempt) & solid).sum(1) for attempt in pixels])
        fits &= seen.sum(1) - covered >= VISIBLE * area
    return fits.to(torch.uint8).argmax(0), fits.any(0)


def _boxes(masks: Tensor) -> Tensor:
    """Tight boxes of (N, M, H, W) masks."""
    columns, rows = masks.any(-2), masks.any(-1)
    x1, y1 = columns.to(torch.uint8).argmax(-1), rows.to(torch.uint8).argmax(-1)
    x2 = columns.shape[-1] - columns.flip(-1).to(torch.uint8).argmax(-1)
    y2 = rows.shape[-1] - rows.flip(-1).to(torch.uint8).argmax(-1)
    boxes = torch.stack([x1, y1, x2, y2], dim=-1).float()
    return torch.where(masks.any((-1, -2))[..., None], boxes, torch.zeros(()))
