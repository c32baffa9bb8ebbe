"""What a classifier predicts, how sure it is, and whether it is right."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from common.robustness.normalisation import Normalized


def predict(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int = 500,
) -> tuple[np.ndarray, np.ndarray]:
    """The largest probability for each image, and 1 where it is right, both (N,) float64.

    Args:
        model: normalised images to logits, in eval mode.
        images: (N, C, H, W) uint8.
        labels: (N,).
        mean, std: per channel, for pixels in [0, 1].
        batch_size: images per forward pass.
    """
    device = next(model.parameters()).device
    normalized = Normalized(model, mean, std).to(device).eval()
    confidence, correct = [], []
    with torch.inference_mode():
        for part, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            top = normalized(part.to(device).float() / 255).softmax(dim=1).max(dim=1)
            confidence.append(top.values.double().cpu())
            correct.append((top.indices.cpu() == truth).double())
    return torch.cat(confidence).numpy(), torch.cat(correct).numpy()
