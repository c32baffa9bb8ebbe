"""What mmcv says of its build, in logs of the environment."""

from __future__ import annotations

import torch
import torchvision


def get_compiler_version() -> str:
    """Return which code serves as mmcv's compiled operators."""
    return f"none; operators of torch {torch.__version__} and torchvision {torchvision.__version__}"


def get_compiling_cuda_version() -> str:
    """Return the CUDA version of torch, whose operators are used."""
    return torch.version.cuda or "not available"
