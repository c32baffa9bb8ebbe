"""Images in [0, 1] for everyone: the one place where a model's own normalisation is applied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.outputs import logits_of

#: Mean and standard deviation of ImageNet's pixels in [0, 1], per channel (R, G, B).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: How far a pixel may lie outside [0, 1] before it is taken for a mistake; resampling and projection round.
TOLERANCE = 1e-4


class Normalized(nn.Module):
    """A classifier that takes images in [0, 1] and normalises them itself.

    Attacks, corruptions and occlusions are defined in pixel space, so every instrument sees a model through this.

    Args:
        model: takes normalised images ``(B, C, H, W)`` and returns logits ``(B, K)``.
        mean, std: per channel, for pixels in [0, 1]; the statistics that belong to the model's weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise UserError(f"mean {tuple(mean)} and std {tuple(std)} need one entry a channel, std above 0.")
        self.model = model
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)`` in [0, 1].

        Raises:
            UserError: the images are not floating-point numbers in [0, 1], or the model returns no tensor.
        """
        check_range(images)
        return logits_of(self.model((images - self.mean) / self.std))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` in eval mode for a while; each of its modules is then in the mode that it was in before."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        if modes[model]:
            model.train()  # a model's own train() may do more than set the flag
        for module, mode in modes.items():
            module.training = mode


def check_range(images: Tensor) -> None:
    """Raise a ``UserError`` unless ``images`` are floating-point numbers in [0, 1]."""
    if not images.is_floating_point():
        raise UserError(f"images have type {images.dtype}; convert them to floating point in [0, 1] (divide by 255).")
    if images.numel() == 0:
        return
    low, high = (value.item() for value in torch.aminmax(images.detach()))
    # Written so that NaN fails too.
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise UserError(
            f"images lie in [{low:.3g}, {high:.3g}] where [0, 1] is needed; do not normalise them, the model does."
        )
