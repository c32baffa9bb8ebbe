"""VARS-S's transforms of small maps against torch's FFT."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from papers.vars.fast.fourier import FourierTransform

GRIDS = ((14, 14), (7, 7), (5, 8), (3, 2), (4, 1), (1, 6))


def maps(height: int, width: int) -> Tensor:
    return torch.randn(2, height * width, 3, generator=torch.Generator().manual_seed(0))


def spectra(height: int, width: int) -> Tensor:
    """Real and imaginary parts of any size, also where a real map's are bound to each other."""
    return torch.randn(2, 2, height, width // 2 + 1, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("grid", GRIDS)
def test_forward_and_inverse_are_those_of_torch(grid: tuple[int, int]) -> None:
    fourier, x, s = FourierTransform(grid), maps(*grid), spectra(*grid)
    expected = torch.fft.rfft2(x.unflatten(1, grid), dim=(1, 2), norm="ortho")
    torch.testing.assert_close(fourier(x), torch.stack([expected.real, expected.imag], 1), atol=1e-5, rtol=1e-5)
    back = torch.fft.irfft2(torch.complex(s[:, 0], s[:, 1]), s=grid, dim=(1, 2), norm="ortho")
    torch.testing.assert_close(fourier.inverse(s), back.flatten(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_real_part_is_what_a_real_map_keeps(grid: tuple[int, int]) -> None:
    fourier, s = FourierTransform(grid), spectra(*grid)
    torch.testing.assert_close(fourier.real_part(s), fourier(fourier.inverse(s)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_adjoints_are_transposes(grid: tuple[int, int]) -> None:
    fourier, x, s = FourierTransform(grid), maps(*grid), spectra(*grid)
    torch.testing.assert_close((fourier(x) * s).sum(), (x * fourier.adjoint(s)).sum(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(
        (fourier.inverse(s) * x).sum(), (s * fourier.inverse_adjoint(x)).sum(), atol=1e-4, rtol=1e-5
    )
