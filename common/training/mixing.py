"""What mixing made of a batch: timm's mixup and CutMix, with a record from which labels can be mixed anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor


@dataclass(frozen=True)
class Mixed:
    """Labels of the two images behind each mixed one, and where the second is seen.

    Image i of a batch of B is mixed with image B - 1 - i, its partner.

    Attributes:
        first: (B, classes), smoothed labels of the images themselves.
        second: (B, classes), smoothed labels of their partners.
        mask: (B, H, W), share of the partner in each pixel, in [0, 1]: 0 or 1 after CutMix, the same everywhere
            after mixup, 0 where nothing was mixed.
    """

    first: Tensor
    second: Tensor
    mask: Tensor

    @property
    def share(self) -> Tensor:
        """The partner's share of an image's area, (B,), in [0, 1]; 1 - lambda in the notation of mixup and CutMix."""
        return self.mask.mean(dim=(1, 2))

    def labels(self, share: Tensor) -> Tensor:
        """Targets (B, classes) in which the partner has the share (B,) of the label."""
        return self.first.lerp(self.second, share.to(self.first.dtype)[:, None])


class Mixing:
    """Mixes batches by ``mixup`` in place; random draws come from numpy's global generator, as timm's do."""

    def __init__(self, mixup: Mixup) -> None:
        self._mixup = mixup

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Mixed]:
        """Mix ``images`` (B, C, H, W) of ``labels`` (B,), B even.

        Returns:
            Mixed images, targets (B, classes) by area, and the record.
        """
        before = np.random.get_state()  # noqa: NPY002 (timm draws from the global generator)
        images, targets = self._mixup(images, labels)
        # The same draws on an image that is 0 in one half of the batch and 1 in the other show who is where, whatever
        # timm mixes by: boxes or weights, one a batch, a pair or an image.
        np.random.set_state(before)  # noqa: NPY002
        own = torch.zeros_like(images[:, :1])
        own[len(own) // 2 :] = 1
        mixed, _ = self._mixup(own.clone(), labels)
        mask = (mixed - own).abs_()[:, 0]
        first = mixup_target(labels, self._mixup.num_classes, smoothing=self._mixup.label_smoothing)
        return images, targets, Mixed(first, first.flip(0), mask)
