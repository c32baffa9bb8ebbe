"""Patch-wise augmentation, with which the starred RVT variants are trained.

Mao et al., "Towards Robust Vision Transformer", CVPR 2022, arXiv 2105.07926: every patch of 16x16 pixels
is augmented by itself, each time with its own draws: a random resized crop, Gaussian noise, a horizontal flip, each
with probability 0.1. The loss on augmented images is added to the loss on clean ones.

The released training loop clears the gradient of the augmented loss before the clean loss's backward pass, so that
augmented images act on the statistics of batch norms only; the recipe key ``patch_augmentation_gradient`` has both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError


@dataclass(frozen=True)
class PatchAugmentation:
    """Augments each patch of images by itself: (B, C, height, width) -> the same shape.

    Attributes:
        patch: side of a patch in pixels.
        probability: of each of the three changes, per patch.
        scale: range of the crop's area over the patch's; the crop is square and resized to the patch, bilinearly.
        noise: standard deviation of the noise, in units of the images that are given.
    """

    patch: int = 16
    probability: float = 0.1
    scale: tuple[float, float] = (0.85, 1.0)
    noise: float = 0.01

    def __call__(
        self, images: Tensor, low: Tensor | float, high: Tensor | float, generator: torch.Generator | None = None
    ) -> Tensor:
        """Augment ``images``.

        Args:
            images: (B, C, height, width).
            low, high: range to clip to; numbers, or tensors that broadcast (per channel: (C, 1, 1)).
            generator: draws come from it; on the device of ``images``.

        Raises:
            UserError: height or width is no multiple of ``patch``.
        """
        batch, channels, height, width = images.shape
        side = self.patch
        if height % side or width % side:
            raise UserError(f"Patch-wise augmentation needs images whose sides are multiples of {side} pixels, "
                            f"not {height}x{width}; set its patch to the model's.")  # fmt: skip
        rows, columns = height // side, width // side
        patches = (
            images.unflatten(2, (rows, side)).unflatten(4, (columns, side)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        )
        count = len(patches)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, device=images.device, dtype=images.dtype, generator=generator)

        crop, noisy, flip = uniform(3, count) < self.probability
        # An affine sampling grid does crop and flip at once: half the crop's side, and its centre, in [-1, 1].
        extent = torch.sqrt(self.scale[0] + (self.scale[1] - self.scale[0]) * uniform(count))
        extent = torch.where(crop, extent, torch.ones_like(extent))
        centre = (1 - extent)[:, None] * (2 * uniform(count, 2) - 1)
        theta = torch.zeros(count, 2, 3, device=images.device, dtype=images.dtype)
        theta[:, 0, 0] = torch.where(flip, -extent, extent)
        theta[:, 1, 1] = extent
        theta[:, :, 2] = centre
        changed = (crop | flip).nonzero().squeeze(-1)
        if len(changed):
            grid = F.affine_grid(theta[changed], [len(changed), channels, side, side], align_corners=False)
            sampled = F.grid_sample(patches[changed], grid, padding_mode="border", align_corners=False)
            patches = patches.index_copy(0, changed, sampled)
        draws = torch.randn(patches.shape, device=images.device, dtype=images.dtype, generator=generator)
        patches = patches + self.noise * draws * noisy[:, None, None, None]

        patches = patches.unflatten(0, (batch, rows, columns)).permute(0, 3, 1, 4, 2, 5)
        images = patches.flatten(4, 5).flatten(2, 3)
        return images.clamp(torch.as_tensor(low).to(images), torch.as_tensor(high).to(images))
