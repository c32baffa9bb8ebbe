"""Released names of tensors, those of flax with slashes, and ours.

Dense layers are (in, out), convolutions (height, width, in, out). Queries, keys and values have an axis for heads,
(width, heads, channels of a head); so has the projection of what they give, (heads, channels, width).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from papers.vit.model import resize_positions

#: What the release's training writes before every name, and its decoder, which no classifier needs.
_PREFIX, _DECODER = "opt/target/", "vqgan/decoder/"
_ENCODER = "vqgan/encoder"
_BLOCK = {
    "norm1": "LayerNorm_0",
    "attn.proj": "MultiHeadDotProductAttention_0/out",
    "norm2": "LayerNorm_1",
    "mlp.fc1": "MlpBlock_0/Dense_0",
    "mlp.fc2": "MlpBlock_0/Dense_1",
}
_MIXER_BLOCK = {
    "norm1": "LayerNorm_0",
    "mlp_tokens.fc1": "token_mixing/Dense_0",
    "mlp_tokens.fc2": "token_mixing/Dense_1",
    "norm2": "LayerNorm_1",
    "mlp_channels.fc1": "channel_mixing/Dense_0",
    "mlp_channels.fc2": "channel_mixing/Dense_1",
}
_ENCODER_BLOCK = {
    "norm1": "GroupNorm_0",
    "conv1": "Conv_0",
    "norm2": "GroupNorm_1",
    "conv2": "Conv_1",
    "shortcut": "Conv_2",
}
_ENCODER_ENDS = {"conv_in": "Conv_0", "norm": "GroupNorm_0", "conv_out": "Conv_1"}
#: Tensors that are no weight or bias of a module; they are stored as they are.
_TENSORS = {
    "cls_token": "vit/cls",
    "pos_embed": "vit/Transformer/posembed_input/pos_embedding",
    "codes.codebook": "vqgan/quantizer/codebook",
    "codes.delta": "code_embedding_delta",
}
_QKV = ("query", "key", "value")
_FROM_FLAX = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
_TO_FLAX = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Released names to ours, with positions resized as released where the model is for images of another size.

    The decoder of the autoencoder, which a file may have, is left out.
    """
    if not any("/" in name for name in state_dict):
        return dict(state_dict)
    file = {name.removeprefix(_PREFIX): value for name, value in state_dict.items()}
    file = {name: value for name, value in file.items() if not name.startswith(_DECODER)}
    ours: dict[str, Tensor] = {}
    for name in model.state_dict():
        parts = _released_names(name, model)
        if all(part in file for part in parts):
            ours[name] = _from_flax(name, [file.pop(part) for part in parts])
    positions = ours.get("pos_embed")
    if positions is not None and positions.shape[1] != model.pos_embed.shape[1]:
        ours["pos_embed"] = resize_positions(positions, model.patch_embed.grid_size)
    return {**ours, **file}


def released_state_dict(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Our names to released ones, the inverse of :func:`checkpoint_filter_fn`."""
    heads = getattr(getattr(model.blocks[0], "attn", None), "num_heads", 1)
    released: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        released.update(zip(_released_names(name, model), _to_flax(name, value, heads), strict=True))
    return released


def encoder_state(state_dict: Mapping[str, Tensor], codes: Any) -> dict[str, Tensor]:
    """The encoder and the codebook of a :class:`papers.drvit.model.Codes` from a file of the autoencoder alone.

    Names may begin with ``vqgan/`` or not; all else in the file is left out.
    """
    file = {"vqgan/" + name.removeprefix(_PREFIX).removeprefix("vqgan/"): value for name, value in state_dict.items()}
    ours: dict[str, Tensor] = {}
    for name in codes.state_dict():
        (released,) = _released_names(f"codes.{name}", None)
        if released in file:
            ours[name] = _from_flax(f"codes.{name}", [file[released]])
    return ours


def _released_names(name: str, model: Any) -> list[str]:
    """The released names of what we call ``name``: three for queries, keys and values, else one."""
    name = re.sub(r"^(patch_embed|stem)\.codes\.", "codes.", name)
    module, _, kind = name.rpartition(".")
    leaf = kind if kind == "bias" else "scale" if "norm" in module.rpartition(".")[2] else "kernel"
    if name in _TENSORS:
        return [_TENSORS[name]]
    if part := re.fullmatch(r"codes\.encoder\.(?:blocks\.(\d+)\.)?(\w+)", module):
        if part[1] is None:
            return [f"{_ENCODER}/{_ENCODER_ENDS[part[2]]}/{leaf}"]
        return [f"{_ENCODER}/ResBlock_{part[1]}/{_ENCODER_BLOCK[part[2]]}/{leaf}"]
    if embed := re.fullmatch(r"(patch_embed|stem)\.proj", module):
        fused = getattr(model, embed[1]).fusion_dim
        return [f"vit/{'embedding' if fused else 'linear_projection'}/{leaf}"]
    if module == "norm":
        return [f"vit/{'Transformer/encoder_norm' if hasattr(model, 'pos_embed') else 'pre_logits_norm'}/{leaf}"]
    if module == "head":
        return [f"vit/output_projection/{leaf}"]
    if block := re.fullmatch(r"blocks\.(\d+)\.(.+)", module):
        if block[2] == "attn.qkv":
            attention = f"vit/Transformer/encoderblock_{block[1]}/MultiHeadDotProductAttention_0"
            return [f"{attention}/{part}/{leaf}" for part in _QKV]
        if hasattr(model, "pos_embed"):
            return [f"vit/Transformer/encoderblock_{block[1]}/{_BLOCK[block[2]]}/{leaf}"]
        return [f"vit/mixerblock_{block[1]}/{_MIXER_BLOCK[block[2]]}/{leaf}"]
    return [name]  # of a hybrid's convolutional part, of which nothing is released with code words


def _is_stored_as_it_is(name: str) -> bool:
    return name.endswith(tuple(_TENSORS)) or ".backbone." in name


def _from_flax(name: str, values: list[Tensor]) -> Tensor:
    """One of our tensors from its released parts.

    Raises:
        UserError: a part has not as many axes as in the release.
    """
    axes = _axes(name)
    if any(value.ndim not in axes for value in values):
        shapes = ", ".join(str(list(value.shape)) for value in values)
        raise UserError(
            f"{name} has {' or '.join(map(str, axes))} axes in a released file and is {shapes} in this one: give a "
            "file as released."
        )
    if name.endswith("attn.qkv.weight"):
        return torch.cat([value.flatten(1).T for value in values])
    if name.endswith("attn.qkv.bias"):
        return torch.cat([value.flatten() for value in values])
    (value,) = values
    if name.endswith("attn.proj.weight"):
        return value.flatten(0, 1).T
    return value if _is_stored_as_it_is(name) else value.permute(_FROM_FLAX[value.ndim])


def _axes(name: str) -> tuple[int, ...]:
    """How many axes a released part of ``name`` can have."""
    if _is_stored_as_it_is(name):
        return (1, 2, 3, 4)
    if name.endswith(("attn.qkv.weight", "attn.proj.weight")):
        return (3,)
    if name.endswith("attn.qkv.bias"):
        return (2,)
    return tuple(sorted(_FROM_FLAX))


def _to_flax(name: str, value: Tensor, heads: int) -> list[Tensor]:
    """The released parts of one of our tensors."""
    if name.endswith("attn.qkv.weight"):
        return [part.T.unflatten(1, (heads, -1)) for part in value.chunk(3)]
    if name.endswith("attn.qkv.bias"):
        return [part.unflatten(0, (heads, -1)) for part in value.chunk(3)]
    if name.endswith("attn.proj.weight"):
        return [value.T.unflatten(0, (heads, -1))]
    return [value if _is_stored_as_it_is(name) else value.permute(_TO_FLAX[value.ndim])]
