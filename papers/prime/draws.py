"""What PRIME leaves to chance, drawn apart from what is done with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet

from common.errors import UserError
from papers.prime.primitives import Colours, Displacement, Filters, temperatures

PRIMITIVES = ("displace", "recolour", "refilter")
#: Where the depth of a chain is drawn, it is at most this.
DEEPEST = 3


@dataclass(frozen=True, kw_only=True)
class PrimeSettings:
    """How images are augmented; the defaults are the released ones for CIFAR.

    Attributes:
        width: number of chains that are mixed.
        depth: number of primitives in a chain; -1: drawn from 1, 2 and 3 for each chain.
        mixing: whether chains are mixed with each other and with the image; otherwise the end of one is the result.
        lowest_cut, highest_cut: range of the number of modes of a displacement.
        cut_peak, cut_bias: sum and quotient of the parameters of the Beta distribution by which it is drawn in there.
        temperature_peak, temperature_bias: the same for the temperature, in its allowed range.
        displacement: upper end of that range, relative to where places change their order.
        colours: highest frequency of a map of colours.
        bandwidth: number of frequencies of a map of colours, from a random one on; 0: all from 1 to a random one.
        strength: largest variance of its coefficients.
        kernel: side of a filter, in pixels, odd.
        sigma: largest standard deviation of a filter's noise.
        centred: see `primitives.Filters`.

    Raises:
        UserError: a value is out of range.
    """

    width: int = 3
    depth: int = -1
    mixing: bool = True
    lowest_cut: int = 2
    highest_cut: int = 100
    cut_peak: float = 1.0
    cut_bias: float = 1.0
    temperature_peak: float = 1.0
    temperature_bias: float = 1.0
    displacement: float = 1.0
    colours: int = 100
    bandwidth: int = 0
    strength: float = 0.01
    kernel: int = 3
    sigma: float = 4.0
    centred: bool = True

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"PRIME mixes at least one chain; the width cannot be {self.width}.")
        if self.depth != -1 and self.depth < 1:
            raise UserError(f"A chain of PRIME has at least one primitive, or -1 to draw it; not {self.depth}.")
        if not 2 <= self.lowest_cut < self.highest_cut:
            raise UserError(
                f"Displacements have from 2 modes on, and a range of them: not {self.lowest_cut} to {self.highest_cut}."
            )
        if self.colours < 1 or self.bandwidth < 0:
            raise UserError(
                f"Maps of colours have at least one frequency, not {self.colours} with a bandwidth of {self.bandwidth}."
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UserError(f"The side of a filter is an odd number of pixels, not {self.kernel}.")
        for name in ("cut_peak", "cut_bias", "temperature_peak", "temperature_bias"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, not {getattr(self, name)}.")
        for name in ("displacement", "strength", "sigma"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} cannot be below 0: {getattr(self, name)}.")

    @property
    def chains(self) -> int:
        """Chains of an image."""
        return self.width if self.mixing else 1

    @property
    def longest(self) -> int:
        """The largest number of primitives in a chain."""
        return DEEPEST if self.depth == -1 else self.depth


@dataclass(frozen=True)
class Step:
    """One step of all chains.

    Attributes:
        primitive: which one a chain takes, index in ``PRIMITIVES``, (M,) for M chains.
        displacement, colours, filters: of all M chains; those that take another primitive do not use theirs.
    """

    primitive: Tensor
    displacement: Displacement
    colours: Colours
    filters: Filters


@dataclass(frozen=True)
class Draws:
    """All that chance decides for N images with W chains.

    Attributes:
        weights: of the chains, (N, W), rows sum to 1.
        share: of the mixture in the result, (N,) in [0, 1]; the rest is the image itself.
        depth: primitives of each chain, (W * N,): the first chains of all images, then their second ones, and so on.
        steps: as many as the longest chain has.
    """

    weights: Tensor
    share: Tensor
    depth: Tensor
    steps: tuple[Step, ...]

    @classmethod
    def sample(cls, images: Tensor, settings: PrimeSettings) -> Draws:
        """Draw for images (N, C, H, W), on their device, from torch's global generator.

        Numbers that are one for the batch are drawn on the CPU.
        """
        (count, channels, _, side), device = images.shape, images.device
        width, chains = settings.chains, settings.chains * count
        share = Beta(1.0, 1.0).sample((count,)).to(device) if settings.mixing else torch.ones(count, device=device)
        fixed = settings.depth != -1
        return cls(
            weights=Dirichlet(torch.ones(width, device=device)).sample((count,)),
            share=share,
            depth=torch.full((chains,), settings.depth) if fixed else torch.randint(1, DEEPEST + 1, (chains,)),
            steps=tuple(
                Step(
                    primitive=torch.randint(0, len(PRIMITIVES), (chains,)),
                    displacement=sample_displacement(side, settings, device),
                    colours=sample_colours(chains, channels, settings, device),
                    filters=sample_filters(chains, settings, device),
                )
                for _ in range(settings.longest)
            ),
        )


def sample_displacement(side: int, settings: PrimeSettings, device: torch.device) -> Displacement:
    """Draw a displacement: how many modes it has, its temperature, its coefficients."""
    lowest = settings.lowest_cut
    highest = int(torch.randint(lowest + 1, settings.highest_cut + 1, ()))
    cut = int(_beta(settings.cut_peak, settings.cut_bias) * (highest + 1 - lowest) + lowest)
    low, high = temperatures(side, cut)
    high = max(low, settings.displacement * high)
    temperature = low + (high - low) * _beta(settings.temperature_peak, settings.temperature_bias)
    x, y = torch.randn(2, cut, cut, device=device)
    return Displacement(x, y, temperature if settings.displacement else 0.0)


def sample_colours(count: int, channels: int, settings: PrimeSettings, device: torch.device) -> Colours:
    """Draw maps of colours: their frequencies and their strength, which are the batch's, and their coefficients."""
    highest = int(torch.randint(1, settings.colours + 1, ()))
    strength = settings.strength * float(torch.rand(()))
    first, frequencies = 1, highest
    if settings.bandwidth:
        first = int(torch.randint(1, highest + 1, ()))
        frequencies = min(settings.bandwidth, highest + 1 - first)
    return Colours(torch.randn(count, channels, frequencies, device=device), first, strength)


def sample_filters(count: int, settings: PrimeSettings, device: torch.device) -> Filters:
    """Draw filters: the strength of their noise, which is the batch's, and the noise."""
    sigma = settings.sigma * float(torch.rand(()))
    return Filters(torch.randn(count, settings.kernel, settings.kernel, device=device), sigma, settings.centred)


def _beta(peak: float, bias: float) -> float:
    """A draw from the Beta distribution whose parameters have the sum ``peak`` and the quotient ``bias``."""
    second = peak / (bias + 1)
    return float(Beta(peak - second, second).sample())
