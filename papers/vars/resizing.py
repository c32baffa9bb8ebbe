"""Weights of VARS for another grid of tokens, for images larger than those that they were trained on.

Neither publication nor release says how. VARS-S: a template is a convolution kernel, which keeps its size in tokens:
its spectrum is that of the kernel with zeros around it. VARS-SD: a template has a weight for each place, which is
interpolated, as position embeddings are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from papers.vars.dynamic import VARSStaticDynamic
from papers.vars.static import VARSStatic

Grid = tuple[int, int]


def resize_grid(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """``state_dict``, whose names are the model's, with templates for the model's grid. Square grids are taken as such.

    Raises:
        UserError: the templates in the file lie on no square grid.
    """
    resized = dict(state_dict)
    for prefix, module in model.named_modules():
        if isinstance(module, VARSStatic):
            for name in ("kernel", "kernel2"):
                spectra = resized.get(f"{prefix}.{name}")
                if spectra is not None and spectra.shape[3:5] != getattr(module, name).shape[3:5]:
                    resized[f"{prefix}.{name}"] = _pad_kernel(spectra, module.grid)
                    # They follow from the kernels and are computed again.
                    resized.pop(f"{prefix}.L", None)
                    resized.pop(f"{prefix}.kernel_norm", None)
        elif isinstance(module, VARSStaticDynamic):
            templates = resized.get(f"{prefix}.kernel")
            if templates is not None and templates.shape != module.kernel.shape:
                prefixed = module.kernel.shape[-2] - module.grid[0] * module.grid[1]
                resized[f"{prefix}.kernel"] = _interpolate(templates, module.grid, prefixed, f"{prefix}.kernel")
    return resized


def _pad_kernel(spectra: Tensor, grid: Grid) -> Tensor:
    """Spectra (C, J, 1, H, W // 2 + 1, 2) of square kernels as spectra for ``grid``; cut where that is smaller."""
    side = spectra.shape[3]
    kernels = torch.fft.fftshift(
        torch.fft.irfft2(torch.view_as_complex(spectra.contiguous()), s=(side, side)), (-2, -1)
    )
    margins = []
    for new in grid[::-1]:
        # The kernel's centre, at n // 2, has to stay one.
        before = new // 2 - side // 2
        margins += [before, new - side - before]
    kernels = torch.fft.ifftshift(F.pad(kernels, margins), (-2, -1))
    return torch.view_as_real(torch.fft.rfft2(kernels)).contiguous()


def _interpolate(templates: Tensor, grid: Grid, prefixed: int, name: str) -> Tensor:
    """Templates (1, h, prefixed + side^2, k) interpolated to (1, h, prefixed + H W, k); a class token keeps its own."""
    head, places = templates[:, :, :prefixed], templates[:, :, prefixed:]
    side = round(places.shape[2] ** 0.5)
    if side * side != places.shape[2]:
        raise UserError(f"{name} has templates of {places.shape[2]} tokens, no square grid, and cannot be resized.")
    maps = places.squeeze(0).transpose(1, 2).unflatten(2, (side, side))
    maps = F.interpolate(maps, grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([head, maps.flatten(2).transpose(1, 2).unsqueeze(0)], dim=2)
