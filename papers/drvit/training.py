"""What Dr. ViT changes about training: the encoder comes from a file and is frozen, offsets of words learn slowly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.checkpoints import load_strictly, read, unwrap
from common.errors import UserError, nearest
from common.training.hooks import Hook, Training
from common.training.recipe import Recipe
from papers.augreg import training as augreg
from papers.drvit.model import Codes
from papers.drvit.released import encoder_state

CODES = ("tuned", "frozen")
#: The rate of the offsets of code words, of that of all else.
RATE = 0.01


def codes_of(model: nn.Module) -> Codes | None:
    """The part of a model that finds code words; None where it has none."""
    return next((module for module in model.modules() if isinstance(module, Codes)), None)


class FrozenEncoder(Hook):
    """Take encoder and codebook from the file of a trained autoencoder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Load them.

        Raises:
            UserError: no file is named, or it is of another encoder.
        """
        codes = codes_of(model)
        if codes is None:
            return
        if not self.path:
            raise UserError(
                "Code words come from a trained autoencoder: name its file by --set method.vqgan=FILE, with tensors "
                "named as in the release (encoder/Conv_0/kernel, quantizer/codebook, ...)."
            )
        given = {name: value for name, value in codes.state_dict().items() if name == "delta"}
        load_strictly(codes, {**given, **encoder_state(unwrap(read(Path(self.path))), codes)}, self.path)


class SlowOffsets(Hook):
    """Let the offsets of code words take a hundredth of each step of the optimizer, which is its rate over 100."""

    def __init__(self) -> None:
        self.before: Tensor | None = None

    def start(self, run: Training) -> None:
        """Keep the offsets."""
        self.offsets = getattr(codes_of(run.plain_model), "delta", None)
        self.before = None if self.offsets is None else self.offsets.detach().clone()

    @torch.no_grad()
    def on_step(self, run: Training) -> None:
        """Go back the rest of the step."""
        if self.offsets is not None:
            assert self.before is not None
            self.offsets.copy_(torch.lerp(self.before, self.offsets, RATE))
            self.before.copy_(self.offsets)


class FrozenOffsets(Hook):
    """Leave the offsets of code words at zero, as the release does."""

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Take them from the optimizer."""
        offsets: Any = getattr(codes_of(model), "delta", None)
        if offsets is not None:
            offsets.requires_grad_(False)


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hooks of a recipe's method settings; a recipe without any has none.

    ``vqgan``: the file of the trained autoencoder; networks on pixels alone need none. ``codes``: whether offsets of
    code words are ``tuned``, at a hundredth of the rate, or ``frozen``. ``loss``, ``head_bias`` and ``dropout``: see
    `papers.augreg.training`.

    Raises:
        UserError: a value is unknown or out of range.
    """
    if not recipe.method:
        return []
    codes = str(recipe.method.get("codes", "tuned"))
    if codes not in CODES:
        raise UserError(f"method.codes must be one of {', '.join(CODES)}, not {codes!r}.{nearest(codes, CODES)}")
    offsets = SlowOffsets() if codes == "tuned" else FrozenOffsets()
    return [FrozenEncoder(str(recipe.method.get("vqgan", ""))), offsets, *augreg.hooks(recipe)]
