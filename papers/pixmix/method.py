"""PixMix: an image is mixed again and again, with a complex picture or with an augmented copy of itself.

Hendrycks et al., "PixMix: Dreamlike Pictures Comprehensively Improve Safety Measures", CVPR 2022, arXiv 2112.05135.
Mixing starts from the image or an augmented copy of it, goes on for 0 to k rounds, and in each round adds or multiplies
a second picture: one of a set of fractals and the like, or a fresh augmented copy. The label stays.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from papers.augmix import pillow
from papers.augmix.draws import ALL_OPERATIONS, magnitudes
from papers.augmix.operations import apply
from papers.augmix.training import BATCHED_ON_CPU
from papers.pixmix.draws import MIXINGS, Draws
from papers.pixmix.mixing import add, multiply

_MIXINGS = {"add": add, "multiply": multiply}


def pixmix(images: Tensor, pictures: Tensor, draws: Draws) -> Tensor:
    """Mix a batch with pictures, on its device.

    Args:
        images: (N, C, H, W) uint8, with 1 or 3 channels.
        pictures: (N, C, H, W) uint8, one for each image.
        draws: what chance decided for each of the N images.

    Returns:
        (N, C, H, W) float32 in [0, 1].
    """
    copies = augmented_copies(images, draws)
    mixed = copies[:, 0].float() / 255
    for number in range(int(draws.rounds.max(initial=0))):
        going = draws.rounds > number
        chosen = torch.from_numpy(draws.augmented[:, number + 1]).to(images.device).view(-1, 1, 1, 1)
        second = torch.where(chosen, copies[:, number + 1], pictures).float() / 255
        for code, name in enumerate(MIXINGS):
            index = np.flatnonzero(going & (draws.mixing[:, number] == code))
            a, b = (torch.from_numpy(weight[index, number]).to(images.device) for weight in (draws.a, draws.b))
            at = torch.from_numpy(index).to(images.device)
            mixed[at] = _MIXINGS[name](mixed[at], second[at], a, b).clamp_(0, 1)
    return mixed


def augmented_copies(images: Tensor, draws: Draws) -> Tensor:
    """Copies of each image, (N, k + 1, C, H, W) uint8: augmented where ``draws`` say so and where they are needed."""
    height, width = images.shape[2:]
    magnitude = magnitudes(draws.operation, draws.level, draws.negative, width, height)
    needed = draws.augmented & (np.arange(draws.augmented.shape[1]) <= draws.rounds[:, None])
    copies = images[:, None].repeat(1, draws.augmented.shape[1], 1, 1, 1)
    image, copy = np.nonzero(needed)
    if len(image):
        at = torch.from_numpy(image).to(images.device)
        changed = _applied(images[at], draws.operation[image, copy], magnitude[image, copy])
        copies[at, torch.from_numpy(copy).to(images.device)] = changed
    return copies


def _applied(images: Tensor, operation: np.ndarray, magnitude: np.ndarray) -> Tensor:
    """One operation for each image, at once or, where that is faster, by Pillow; the result is the same."""
    if images.device.type != "cpu" or images[0, 0].numel() <= BATCHED_ON_CPU:
        return apply(images, operation, magnitude)
    channels = images.shape[1]
    arrays = images.permute(0, 2, 3, 1).numpy()
    changed = [
        np.asarray(
            pillow.apply(Image.fromarray(array if channels == 3 else array[..., 0]), ALL_OPERATIONS[code], float(m))
        )
        for array, code, m in zip(arrays, operation, magnitude, strict=True)
    ]
    return torch.from_numpy(np.stack(changed)).view(*arrays.shape).permute(0, 3, 1, 2)
