"""A small image-to-image network, trained on the embedded data once: for augmentations that ask such a network.

It stands in for what publications take ready-made: AdaIN's encoder and decoder (style transfer), the autoencoder and
the super-resolution network of DeepAugment. It learns to reproduce garments and textures, in seconds and from a fixed
seed, and lies in the data folder under a check sum of the data and of the code that it is made by.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.bench import textures as own_textures
from common.bench.images import training_data
from common.bench.stored import check_sum, place
from common.bench.textures import textures
from common.files import write_atomic
from common.progress import console
from common.style_transfer import adain

STEPS = 300
BATCH = 32  # half garments, half textures
LEARNING_RATE = 5e-3
#: Deviation of the noise that a content image gets before it is restyled, of a range of 1.
NOISE = 0.2
#: Images that are restyled at once.
CHUNK = 500


class Autoencoder(nn.Module):
    """Grey images (B, 1, H, W) in [0, 1] to features (B, 32, H/2, W/2) and back; H and W are even."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, padding_mode="reflect"),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, padding_mode="reflect"),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
            nn.ReLU(),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(32, 16, 3, padding=1, padding_mode="reflect"),
            nn.ReLU(),
            nn.Conv2d(16, 1, 3, padding=1, padding_mode="reflect"),
        )

    def encode(self, images: Tensor) -> Tensor:
        """Features (B, 32, H/2, W/2)."""
        return self.encoder(images)

    def decode(self, features: Tensor) -> Tensor:
        """Images (B, 1, H, W), mostly in [0, 1]."""
        return self.decoder(features)

    def forward(self, images: Tensor) -> Tensor:
        """Reproduce ``images``."""
        return self.decode(self.encode(images))


def restyle(images: Tensor, styles: Tensor, generator: torch.Generator) -> Tensor:
    """Images with the style of others, by adaptive instance normalisation.

    What moments are given to is scaled, never invented: the even black behind a garment would stay even. So a little
    noise is added to the image first, of which the style's moments make its texture.

    Args:
        images: (N, H, W) uint8.
        styles: (N, h, w) uint8.
        generator: draws the noise.

    Returns:
        (N, H, W) uint8.
    """
    network = autoencoder()
    made = []
    with torch.inference_mode():
        for content, style in zip(images.split(CHUNK), styles.split(CHUNK), strict=True):
            pixels = content[:, None].float() / 255
            noisy = pixels + NOISE * torch.randn(pixels.shape, generator=generator)
            features = adain(network.encode(noisy), network.encode(style[:, None].float() / 255))
            made.append(to_bytes(network.decode(features))[:, 0])
    return torch.cat(made)


def to_bytes(images: Tensor) -> Tensor:
    """Images of a range of 1, whatever their shape, as uint8; what is outside of [0, 1] is clipped."""
    return (255 * images).round().clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=1)
def autoencoder() -> Autoencoder:
    """The trained network, in eval mode on the CPU, frozen; trained now where the data folder has none."""
    path = place("autoencoder", check_sum(__file__, own_textures.__file__), "pt")
    network = Autoencoder()
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
    else:
        console.print("Training the bench's autoencoder, once.", highlight=False)
        train(network)
        write_atomic(path, lambda handle: torch.save(network.state_dict(), handle))
    return network.eval().requires_grad_(False)


def train(network: Autoencoder, steps: int = STEPS) -> float:
    """Train from a fixed seed, in place; random draws elsewhere stay as they are.

    Returns:
        The last reconstruction error: mean square over pixels of a range of 1.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
    grey = training_data().train[0][:, 0]
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        garments = grey[torch.randint(len(grey), (BATCH // 2,), generator=generator)]
        both = torch.cat([garments, textures(BATCH // 2, grey.shape[-1], generator)])[:, None].float() / 255
        error = F.mse_loss(network(both), both)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
    return float(error.detach())
