"""SMMix: the network under training says what of an image is pasted and where, and learns more from the mixture.

Chen et al., "SMMix: Self-Motivated Image Mixing for Vision Transformers", ICCV 2023, arXiv 2212.12977. From the
abstract: the region of largest attention takes the place of the partner's region of smallest attention (max-min
attention region mixing); the tokens of both parts learn the label of their own image (fine-grained labels); the output
for the mixture is drawn to the mixture of the outputs for both images (feature consistency). All else is checked
against github.com/ChenMnZ/SMMix @14b1edc (smmix.py, engine.py, deit.py).

Notation: the partner of image i in a batch of B is image B - 1 - i, whose region is pasted into it. Shares are the
partner's. Axes: N patches in rows x columns, C channels, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def window_attention(attention: Tensor, side: int) -> Tensor:
    """Attention on each window of ``side`` x ``side`` patches, (B, rows - side + 1, columns - side + 1).

    Args:
        attention: (B, rows, columns), not negative.
        side: of a window, in patches.
    """
    return F.avg_pool2d(attention[:, None].float(), side, stride=1)[:, 0] * side**2


def corners(scores: Tensor, largest: bool) -> tuple[Tensor, Tensor]:
    """Row and column (B,) of the window with the largest or the smallest score, the first of several."""
    flat = scores.flatten(1)
    return _rows_and_columns(flat.argmax(dim=1) if largest else flat.argmin(dim=1), scores.shape[2])


def random_corners(attention: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Row and column (B,) of one random window for the batch, as CutMix draws its box."""
    rows, columns = (size - side + 1 for size in attention.shape[1:])
    drawn = torch.randint(rows * columns, (1,), device=attention.device).expand(len(attention))
    return _rows_and_columns(drawn, columns)


def paste(
    images: Tensor, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], side: int, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Paste a window of each image's partner into it.

    Args:
        images: (B, C, H, W), a multiple of the grid.
        source: rows and columns (B,) of the window that is cut from an image, for its partner.
        target: rows and columns (B,) of the window of an image that is covered.
        side: of the windows, in patches.
        grid: rows and columns of patches.

    Returns:
        Mixed images, and the mask (B, H, W), 1 where the partner is seen.
    """
    height, width = images.shape[2] // grid[0], images.shape[3] // grid[1]  # of a patch, in pixels

    def pixels(corner: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        rows = corner[0][:, None] * height + torch.arange(side * height, device=images.device)
        columns = corner[1][:, None] * width + torch.arange(side * width, device=images.device)
        return rows[:, :, None], columns[:, None, :]

    image = torch.arange(len(images), device=images.device)[:, None, None]
    (rows, columns), (from_rows, from_columns) = pixels(target), pixels((source[0].flip(0), source[1].flip(0)))
    mixed, mask = images.clone(), torch.zeros_like(images[:, 0])
    mixed[image, :, rows, columns] = images.flip(0)[image, :, from_rows, from_columns]
    mask[image, rows, columns] = 1
    return mixed, mask


def fine_grained_loss(tokens: Tensor, mask: Tensor, head: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy of both parts of a mixed image with the label of their own image, mean of both.

    Args:
        tokens: (B, N, C), patches after the last norm.
        mask: (B, N), 1 where the partner is seen; both parts have a patch at least.
        head: classifies the mean of a part, (B, C) to (B, K).
        first: (B, K), labels of the images; ``second`` of their partners.
    """
    parts = ((1 - mask, first), (mask, second))
    losses = [
        F.cross_entropy(head((tokens * part[:, :, None]).sum(dim=1) / part.sum(dim=1, keepdim=True)), label)
        for part, label in parts
    ]
    return (losses[0] + losses[1]) / 2


def consistency_loss(logits: Tensor, unmixed: Tensor, share: Tensor) -> Tensor:
    """Divergence of the output for a mixed image from the mixture of the outputs for both images: logits are mixed.

    Args:
        logits: (B, K), for the mixed images.
        unmixed: (B, K), for the images themselves.
        share: (B,), of the partner.
    """
    mixture = unmixed.lerp(unmixed.flip(0), share[:, None].to(unmixed.dtype))
    return F.kl_div(logits.log_softmax(dim=1), mixture.softmax(dim=1), reduction="batchmean")


def _rows_and_columns(index: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    return index // columns, index % columns
