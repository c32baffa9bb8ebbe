"""Perturbations of a single patch of an image: where it lies, and what an attack puts there.

A patch is a cell of the grid of ``size`` pixels, numbered row by row: 49 of 32 pixels in an image of 224. Images are in
[0, 1], networks take them so and are in eval mode.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError


def patch_masks(images: Tensor, size: int, positions: Tensor) -> Tensor:
    """Ones on a patch of each of images (B, C, H, W) and zeros elsewhere, (B, 1, H, W), at ``positions`` (B,).

    Raises:
        UserError: there is no such patch.
    """
    height, width = images.shape[-2:]
    count = patch_count(images, size)
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < count:
        raise UserError(f"images of {height}x{width} pixels have patches 0 to {count - 1} of {size} pixels.")
    places = F.one_hot(positions.to(images.device), count).to(images.dtype).view(-1, 1, height // size, width // size)
    patches = places.repeat_interleave(size, dim=-2).repeat_interleave(size, dim=-1)
    return F.pad(patches, (0, width % size, 0, height % size))


def patch_count(images: Tensor, size: int) -> int:
    """How many whole patches of ``size`` pixels images (B, C, H, W) have."""
    height, width = images.shape[-2:]
    if not 0 < size <= min(height, width):
        raise UserError(f"a patch of {size} pixels does not fit into images of {height}x{width}.")
    return (height // size) * (width // size)


def replaced(images: Tensor, others: Tensor, masks: Tensor) -> Tensor:
    """``images`` with what ``others`` show where ``masks`` (B, 1, H, W) are 1."""
    return torch.where(masks.bool(), others, images)


def gradient(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, K), and the gradient of each image's cross-entropy with respect to that image (B, C, H, W)."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = model(leaf)
        (found,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), leaf)
    return logits.detach(), found


def salient_positions(model: nn.Module, images: Tensor, labels: Tensor, size: int) -> Tensor:
    """The patch (B,) by which the loss of each image changes most: where its gradient is largest."""
    _, found = gradient(model, images, labels)
    return F.avg_pool2d(found.abs().sum(dim=1, keepdim=True), size).flatten(1).argmax(dim=1)


@dataclass(frozen=True, kw_only=True)
class PatchAttack:
    """Gradient ascent on what stands in one patch, from noise, until the prediction changes.

    Attributes:
        size: of the patch in pixels.
        step: of each attacked pixel.
        steps: at most so many; an image that is fooled is left alone.
    """

    size: int = 32
    step: float = 2 / 255
    steps: int = 10_000

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, positions: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attack each image at its position.

        Args:
            model: images (B, C, H, W) in [0, 1] to logits.
            images: (B, C, H, W).
            labels: (B,), to be left: mostly what the model predicts.
            positions: (B,).
            noise: (B, C, H, W) in [0, 1), what the patch starts from.

        Returns:
            Images (B, C, H, W), and whether each is fooled (B,) bool.
        """
        masks = patch_masks(images, self.size, positions)
        attacked = replaced(images, noise, masks)
        fooled = torch.zeros_like(labels, dtype=torch.bool)
        left = torch.arange(len(images), device=images.device)
        for _ in range(self.steps):
            if not len(left):
                break
            logits, ascent = gradient(model, attacked[left], labels[left])
            now = logits.argmax(dim=1) != labels[left]
            fooled[left[now]] = True
            left, ascent = left[~now], ascent[~now]
            attacked[left] = (attacked[left] + self.step * ascent.sign() * masks[left]).clamp(0, 1)
        return attacked, fooled
