"""Gated convolutions in the bench's hierarchical host, in place of its attention, and what they are compared with.

All networks have the host's number of parameters to within 0.3 %: MLPs are as narrow as the mixer before them asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from common import bench, figures
from common.bench import hosts
from common.measurement import Picture
from common.training.recipe import Recipe
from papers.hornet.model import DepthwiseConv, GatedConvolution, GlobalFilter

HOST = "pyramid_mini"
GATED, FIRST_ORDER = f"{HOST}+gated_convolution", f"{HOST}+gated_convolution.order_1"
GLOBAL, PLAIN = f"{HOST}+gated_convolution.global_filters", f"{HOST}+depthwise_convolution"
#: Of gated convolutions, where it is not another: the host's 16 channels become 4, 8 and 16.
ORDER = 3
#: Positions on a side, by the host's stage.
SIDES = (14, 7)
#: Pixels of the larger images that networks trained on 28 pixels are given.
LARGER = 56


class OnTokens(nn.Module):
    """A mixer of maps (B, H, W, C) for tokens (B, N, C) of a square map."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens."""
        side = round(x.shape[1] ** 0.5)
        return self.mixer(x.unflatten(1, (side, side))).flatten(1, 2)


class PlainConvolution(nn.Module):
    """A depth-wise 7x7 convolution of half as many channels again, between projections: (B, H, W, C) to the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = 3 * dim // 2
        self.proj_in, self.proj_out = nn.Linear(dim, width), nn.Linear(width, dim)
        self.dwconv = DepthwiseConv(width, kernel_size=7)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions of ``x``."""
        return self.proj_out(self.dwconv(self.proj_in(x)))


def gated(dim: int, stage: int, order: int = ORDER) -> nn.Module:
    """A gated 7x7 convolution."""
    return GatedConvolution(dim, order)


def globally_gated(dim: int, stage: int) -> nn.Module:
    """A gated convolution with filters as large as the map of the host's ``stage``."""
    return GatedConvolution(dim, ORDER, grid=(SIDES[stage], SIDES[stage]))


def plain(dim: int, stage: int) -> nn.Module:
    """A convolution without gates."""
    return PlainConvolution(dim)


def network(mixer: Callable[[int, int], nn.Module], mlp_ratio: float) -> nn.Module:
    """The host with ``mixer(dim, stage)`` as each attention; its last projection starts at zero, as attention's."""
    model = hosts.pyramid_mini(attention=lambda dim, heads, stage: OnTokens(mixer(dim, stage)), mlp_ratio=mlp_ratio)
    for name, parameter in model.named_parameters():
        if ".mixer.proj_out." in name:
            nn.init.zeros_(parameter)
    return model


def contenders() -> list[bench.Contender]:
    """The host with attention, and with convolutions of every kind."""
    return [
        bench.host(HOST),
        bench.Contender(GATED, partial(network, gated, mlp_ratio=1.19)),
        bench.Contender(FIRST_ORDER, partial(network, partial(gated, order=1), mlp_ratio=1.94)),
        bench.Contender(GLOBAL, partial(network, globally_gated, mlp_ratio=1.21)),
        bench.Contender(PLAIN, partial(network, plain, mlp_ratio=1.67)),
    ]


def at_other_resolution(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray]:
    """``top1`` on all test images as they are, and as ``top1/56`` on the same enlarged bilinearly to 56 pixels."""
    tests = bench.test_set(quick)
    classifier = bench.normalised(model, recipe)
    return {
        "top1": bench.correct(classifier, tests.clean, tests.labels),
        f"top1/{LARGER}": bench.correct(Enlarged(classifier, LARGER), tests.clean, tests.labels),
    }


class Enlarged(nn.Module):
    """A classifier that sees its images in ``side`` x ``side`` pixels."""

    def __init__(self, classifier: nn.Module, side: int) -> None:
        super().__init__()
        self.classifier, self.side = classifier, side

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images (B, 3, H, W)."""
        size = (self.side, self.side)
        return self.classifier(nn.functional.interpolate(images, size, mode="bilinear", align_corners=False))


def filters(model: nn.Module, count: int = 8) -> tuple[Tensor, Tensor]:
    """Learned global filters of a network's first stage, those that are largest.

    Returns:
        Their amplitudes (count, H, W) over frequencies, zero in the middle, and their values (count, H, W) over
        distances, none in the middle: a filter is a circular convolution with them.
    """
    first = next(part for part in model.modules() if isinstance(part, GlobalFilter))
    with torch.no_grad():
        half = torch.view_as_complex(first.complex_weight)
        height = half.shape[1]
        kernels = torch.fft.irfft2(half, s=(height, height))
        largest = kernels.square().sum(dim=(1, 2)).argsort(descending=True)[:count]
        kernels = kernels[largest]
        amplitudes = torch.fft.fftshift(torch.fft.fft2(kernels).abs(), dim=(1, 2))
        return amplitudes, torch.fft.fftshift(kernels, dim=(1, 2))


def filter_picture(model: nn.Module) -> Picture:
    """Learned global filters as they multiply frequencies, and as they weight positions."""
    amplitudes, kernels = filters(model)
    with figures.figure("filters", 8.0, 2.4) as drawn:
        rows = drawn.subplots(2, len(amplitudes))
        for column, (amplitude, kernel) in enumerate(zip(amplitudes, kernels, strict=True)):
            reach = float(kernel.abs().max())
            rows[0, column].imshow(amplitude.numpy(), cmap="viridis", vmin=0)
            rows[1, column].imshow(kernel.numpy(), cmap="RdBu", vmin=-reach, vmax=reach)
            for axes in rows[:, column]:
                axes.set(xticks=[], yticks=[])
        rows[0, 0].set_ylabel("frequencies")
        rows[1, 0].set_ylabel("positions")
        svg = figures.to_svg(drawn)
    return Picture(
        name="filters",
        caption=(
            "The largest global filters that the first stage learned: amplitude by frequency, with frequency zero in "
            "the middle (above), and weight by relative position, with a position's own in the middle (below)."
        ),
        svg=svg,
    )
