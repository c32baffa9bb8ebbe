"""What MixMIM draws and minimises: a mask of places, and the error of both images' reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import UserError


def mask_of(noise: Tensor, ratio: float) -> Tensor:
    """The places that the other image fills: those of the least noise.

    Args:
        noise: (rows, columns), any numbers; equal ones are told apart by their order.
        ratio: share of places that are filled, rounded down to whole ones.

    Returns:
        Bool (rows, columns).

    Raises:
        UserError: one of the two images would be left without a place.
    """
    count = int(noise.numel() * ratio)
    if not 0 < count < noise.numel():
        raise UserError(f"A share of {ratio} of {noise.numel()} places leaves one image without any; set mask_ratio.")
    mask = torch.zeros(noise.numel(), dtype=torch.bool, device=noise.device)
    mask[noise.flatten().argsort(stable=True)[:count]] = True
    return mask.view(noise.shape)


def patches(images: Tensor, size: int) -> Tensor:
    """Images (B, C, H, W) as patches (B, P, size * size * C), the channel varying fastest."""
    x = images.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # (B, C, rows, size, columns, size)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def pictures(x: Tensor, size: int, channels: int = 3) -> Tensor:
    """Patches (B, P, size * size * channels) of a square image as the image; the inverse of :func:`patches`."""
    side = round(x.shape[1] ** 0.5)
    x = x.unflatten(2, (size, size, channels)).unflatten(1, (side, side))
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def unmixed(reconstructed: Tensor, mask: Tensor) -> Tensor:
    """Of each image the patches that another one hid: (2 B, P, D) as the decoder gives them to (B, P, D).

    Where its mirror took an image's place, it was hidden in its own mixture, else in the mirror's.
    """
    first, second = reconstructed.chunk(2)
    return torch.where(mask.flatten()[:, None], first, second.flip(0))


def normalised(target: Tensor) -> Tensor:
    """Patches (B, P, D), each with mean 0 and deviation 1."""
    return (target - target.mean(dim=-1, keepdim=True)) / (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()


def reconstruction_loss(
    images: Tensor, reconstructed: Tensor, mask: Tensor, size: int, normalise: bool = True
) -> Tensor:
    """Mean squared error of all hidden patches of all images, a scalar.

    Args:
        images: (B, C, H, W), normalised.
        reconstructed: (2 B, P, size * size * C), see ``MixMIMPretraining.decode``.
        mask: bool (rows, columns).
        size: pixels on a side of a patch.
        normalise: whether patches are predicted with their own mean and deviation taken out.
    """
    target = patches(images, size)
    return (unmixed(reconstructed.float(), mask) - (normalised(target) if normalise else target)).square().mean()
