"""The image-to-image networks of DeepAugment: super-resolution (EDSR) and a compressive autoencoder (CAE).

Axes: B images, C channels, H x W pixels. Names and shapes of tensors are those of the released weights. Each network
takes a distortion of its features; distortions of its weights are made before, see `papers.imagenet_r.distortions`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from papers.imagenet_r.draws import Draws

#: Mean colour of the images that EDSR was trained on, in [0, 1].
EDSR_MEAN = (0.4488, 0.4371, 0.4040)


def conv3(channels: int, out: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(channels, out, 3, padding=1)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, without norms: (B, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv3(channels, channels), nn.ReLU(), conv3(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return x + self.body(x)


class ColourShift(nn.Conv2d):
    """Adds ``sign`` times the mean colour, in levels of 255; fixed, but a tensor of the released weights."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3)[:, :, None, None]
        self.bias.data = sign * 255 * torch.tensor(EDSR_MEAN)  # type: ignore[union-attr]
        self.requires_grad_(False)


class EDSR(nn.Module):
    """Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", arXiv 1707.02921, the baseline.

    Images (B, 3, H, W), levels from 0 to 255, to (B, 3, 4H, 4W).
    """

    def __init__(self, blocks: int = 16, channels: int = 64) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = ColourShift(-1), ColourShift(1)
        self.head = nn.Sequential(conv3(3, channels))
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)), conv3(channels, channels))
        doubling = (conv3(channels, 4 * channels), nn.PixelShuffle(2))
        again = (conv3(channels, 4 * channels), nn.PixelShuffle(2))
        self.tail = nn.Sequential(nn.Sequential(*doubling, *again), conv3(channels, 3))

    def forward(
        self,
        x: Tensor,
        features: Callable[[Tensor], Tensor] | None = None,
        body: Callable[[nn.Sequential, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Enlarge images.

        Args:
            x: (B, 3, H, W), from 0 to 255.
            features: a distortion of what the head gives.
            body: takes the place of passing the body's layers one after another.
        """
        x = self.head(self.sub_mean(x))
        if features is not None:
            x = features(x)
        return self.add_mean(self.tail(x + (self.body(x) if body is None else body(self.body, x))))


def _block(channels: int) -> nn.Sequential:
    """The residual branch of a block of the autoencoder."""
    pad = nn.ZeroPad2d(1)
    return nn.Sequential(
        pad, nn.Conv2d(channels, channels, 3), nn.LeakyReLU(), pad, nn.Conv2d(channels, channels, 3)
    )  # fmt: skip


def _halving(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(channels, out, 5, stride=2), nn.LeakyReLU())


def _doubling(channels: int, middle: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, middle, 3), nn.LeakyReLU(), nn.ZeroPad2d(1), nn.ConvTranspose2d(middle, out, 2, stride=2)
    )


class CAE(nn.Module):
    """Theis et al., "Lossy Image Compression with Compressive Autoencoders", arXiv 1703.00395, as the release has it.

    Images (B, 3, H, W) in [0, 1] to (B, 3, H, W) in [-1, 1], whose sides are rounded down to multiples of 4; the code
    has 32 bits for each 4x4 pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.e_conv_1, self.e_conv_2 = _halving(3, 64), _halving(64, 128)
        self.e_block_1, self.e_block_2, self.e_block_3 = _block(128), _block(128), _block(128)
        self.e_conv_3 = nn.Sequential(nn.Conv2d(128, 32, 5, padding=2), nn.Tanh())
        self.d_up_conv_1 = _doubling(32, 64, 128)
        self.d_block_1, self.d_block_2, self.d_block_3 = _block(128), _block(128), _block(128)
        self.d_up_conv_2 = _doubling(128, 32, 256)
        self.d_up_conv_3 = nn.Sequential(
            nn.Conv2d(256, 16, 3), nn.LeakyReLU(), nn.ReflectionPad2d(2), nn.Conv2d(16, 3, 3), nn.Tanh()
        )

    def encode(self, x: Tensor) -> Tensor:
        """The code before it becomes binary, (B, 32, H/4, W/4) in [-1, 1]."""
        x = self.e_conv_2(self.e_conv_1(x))
        for block in (self.e_block_1, self.e_block_2, self.e_block_3):
            x = x + block(x)
        return self.e_conv_3(x)

    def decode(self, bits: Tensor) -> Tensor:
        """Images of a code of 0 and 1 (or beyond, where it is distorted)."""
        x = self.d_up_conv_1(2 * bits - 1)
        for block in (self.d_block_1, self.d_block_2, self.d_block_3):
            x = x + block(x)
        return self.d_up_conv_3(self.d_up_conv_2(x))

    def forward(
        self,
        x: Tensor,
        draws: Draws,
        code: Callable[[Tensor], Tensor] | None = None,
        bits: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Compress and decompress.

        Args:
            x: (B, 3, H, W) in [0, 1].
            draws: for the binary code: a place is 1 with probability (1 + code) / 2, in evaluation as in training.
            code, bits: distortions of the code before and after it becomes binary.
        """
        found = self.encode(x)
        if code is not None:
            found = code(found)
        binary = (draws.uniforms(found.shape).to(found.device) <= (1 + found) / 2).to(found.dtype)
        return self.decode(binary if bits is None else bits(binary))
