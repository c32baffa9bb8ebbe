"""Released weights of pre-training in timm's networks: their encoders, without what was only needed for training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import timm
import torch
from torch import Tensor, nn

from common.checkpoints import MisfitError, choose, from_released, load_strictly, read, unwrap
from common.errors import UserError, nearest
from common.run import Run
from common.shapes import shapes_only

#: Networks that a file is tried on, in this order, where none is named: those that the publication measures.
MODELS = (
    "vit_small_patch16_224", "vit_small_patch8_224", "vit_small_patch32_224", "vit_base_patch16_224",
    "vit_base_patch8_224", "vit_base_patch32_224", "vit_large_patch16_224", "vit_huge_patch14_224",
    "vit_base_patch16_clip_224", "vit_base_patch32_clip_224", "vit_large_patch14_clip_224", "beit_base_patch16_224",
    "beit_large_patch16_224",
)  # fmt: skip
#: MoCo-v3's file has two encoders and a predictor; this is the one that gradients trained.
_MOCO = "base_encoder."
#: Classifiers, projection heads, decoders and mask tokens.
_HEADS = ("head.", "fc_norm.", "predictor.", "decoder", "lm_head.", "mask_token", "visual.proj")


def encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the encoder in a state dict, under the names of its release."""
    if any(name.startswith(_MOCO) for name in state):
        state = {name.removeprefix(_MOCO): value for name, value in state.items() if name.startswith(_MOCO)}
    return {name: value for name, value in state.items() if not name.startswith(_HEADS)}


def load(run: Run) -> tuple[nn.Module, str]:
    """The network of the user's checkpoint without a classifier, in eval mode, and its name.

    Raises:
        UserError: there is no such network, or the encoder in the file fits it, or any of ``MODELS``, not.
    """
    path = run.settings.checkpoint
    if path is None:
        raise UserError("Full-scale analyses need weights; pass --checkpoint FILE.")
    content, _ = choose(read(path), run.settings.checkpoint_weights, path)
    state = encoder(unwrap(content))
    asked = run.settings.model
    if asked and not timm.is_model(asked.partition(".")[0]):
        raise UserError(f"There is no model {asked!r}.{nearest(asked, MODELS)}")
    misfits: list[tuple[int, str]] = []
    for name in [asked] if asked else MODELS:
        with shapes_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                fill(timm.create_model(name.partition(".")[0], num_classes=0), state, str(path))
            except MisfitError as error:
                misfits.append((error.tensors, str(error)))
                continue
        model = timm.create_model(name.partition(".")[0], num_classes=0)
        fill(model, state, str(path))
        return model.to(torch.device(run.settings.device)).eval(), name
    raise UserError(min(misfits)[1])


def fill(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load an encoder strictly; the last norm of timm's networks that average patches goes with their classifier.

    Raises:
        MisfitError: a tensor is missing, unexpected or of another shape.
    """
    own = model.state_dict()
    loaded = {name: value for name, value in from_released(state, model).items() if not name.startswith("fc_norm.")}
    unused = {name: value for name, value in own.items() if name.startswith("fc_norm.")}
    load_strictly(model, {**loaded, **unused}, where)
