"""Matched dropout and stochastic depth: which units and branches are dropped in the passes of a step.

Each module that drops anything seeds torch's generator from the step's seed and its own number before it draws; modules
that are to drop the same in two passes get the same seed in both.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from common.training.randomness import derive_seed

#: ``matched``: every pass of a step drops the same. ``released``: stochastic depth and the dropout of the MLPs do, that
#: of embedding and attention draws anew for adversarial images. ``unmatched``: nothing is dropped for those.
MASKS = ("matched", "released", "unmatched")


class Masks:
    """Makes what ``model`` drops the same in the clean and the adversarial passes, as ``form`` says.

    Attributes:
        seed: of the step.
        adversarial: whether the coming pass is on adversarial images.

    Args:
        model: one of timm's vision transformers, or any that drops by ``nn.Dropout`` and timm's ``DropPath``.
        form: one of ``MASKS``.
    """

    def __init__(self, model: nn.Module, form: str) -> None:
        self.form, self.seed, self.adversarial = form, 0, False
        self._handles: list[Any] = []
        for number, (name, module) in enumerate(model.named_modules()):
            if isinstance(module, nn.Dropout | DropPath):
                redrawn = form == "released" and name.endswith(("pos_drop", "attn.proj_drop"))
                self._listen(module, number, redrawn)

    def _listen(self, module: nn.Module, number: int, redrawn: bool) -> None:
        def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            _seed(derive_seed(self.seed, "mask", number, int(redrawn and self.adversarial)), args[0].device)

        def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            whole = self.form == "unmatched" and self.adversarial and module.training
            return args[0] if whole else None

        self._handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def close(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()


def _seed(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
