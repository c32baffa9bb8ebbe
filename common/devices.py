"""The device that a user names."""

from __future__ import annotations

from common.errors import UserError


def device(name: str) -> str:
    """The torch device that ``--device`` names; ``auto`` takes CUDA where there is one.

    Raises:
        UserError: this machine has no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros((), device=torch.device(name))
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name}: this machine has no such device; cpu works everywhere.") from None
    return name
