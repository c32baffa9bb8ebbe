"""Released files of vision transformers and hybrids: the networks themselves are timm's.

Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021, arXiv
2010.11929. Released files (``.npz``, which :func:`common.checkpoints.load_released` reads) hold the parameters of flax
under names with slashes. Dense layers are (in, out), convolutions (height, width, in, out); attention has an axis for
heads: queries, keys and values are (width, heads, channels of a head), the projection (heads, channels, width).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import vision_transformer
from torch import Tensor, nn

from common.errors import UserError

#: What precedes every name of a file that has the state of an optimizer, too.
_PREFIX = "opt/target/"
_ATTENTION = "MultiHeadDotProductAttention_1"
#: Modules of timm's network, and what flax calls them: outside of the blocks, and in one.
_MODULES = {"patch_embed.proj": "embedding", "norm": "Transformer/encoder_norm", "head": "head"}
_BLOCK = {
    "norm1": "LayerNorm_0",
    "attn.proj": f"{_ATTENTION}/out",
    "norm2": "LayerNorm_2",
    "mlp.fc1": "MlpBlock_3/Dense_0",
    "mlp.fc2": "MlpBlock_3/Dense_1",
}
#: Tensors that are no weight or bias of a module.
_TENSORS = {"cls_token": "cls", "pos_embed": "Transformer/posembed_input/pos_embedding"}
_BACKBONE = "patch_embed.backbone."
_QKV = ("query", "key", "value")
#: The order of axes by their number: of convolutions, dense layers, and vectors.
_FROM_FLAX = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
_TO_FLAX = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Released names to timm's, with positions resized as released where the model is for images of another size.

    Files of PyTorch are converted as timm does. A file of pre-training may have a representation layer
    (``pre_logits``) before its classifier; it goes with the classifier, so that it is left out where the model has
    another one or none.
    """
    file = {name.removeprefix(_PREFIX): value for name, value in state_dict.items()}
    if "embedding/kernel" not in file:
        return vision_transformer.checkpoint_filter_fn(dict(state_dict), model)
    classes = model.head.out_features if isinstance(model.head, nn.Linear) else 0
    if "head/bias" in file and len(file["head/bias"]) != classes:
        unused = ("pre_logits/",) if classes else ("pre_logits/", "head/")
        file = {name: value for name, value in file.items() if not name.startswith(unused)}
    ours: dict[str, Tensor] = {}
    # A backbone may lack what stands behind the blocks; its names are timm's all the same.
    last = [f"{module}.{kind}" for module in ("norm", "head") for kind in ("weight", "bias")]
    for name in dict.fromkeys([*model.state_dict(), *last]):
        parts = _released_names(name)
        if all(part in file for part in parts):
            ours[name] = _from_flax(name, [file.pop(part) for part in parts])
    positions = ours.get("pos_embed")
    if positions is not None and positions.shape[1] != model.pos_embed.shape[1]:
        ours["pos_embed"] = resize_positions(positions, model.patch_embed.grid_size)
    return {**ours, **file}


def released_state_dict(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Names of timm to released ones, the inverse of :func:`checkpoint_filter_fn`.

    Networks of timm that have more than the release's (register tokens, layer scale) keep timm's names.
    """
    if any(name not in _TENSORS and _released_names(name) == [name] for name in state_dict):
        return dict(state_dict)
    heads = model.blocks[0].attn.num_heads
    released: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        released.update(zip(_released_names(name), _to_flax(name, value, heads), strict=True))
    return released


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positions (1, 1 + n, C) of a class token and a square grid, for another grid: (1, 1 + rows * columns, C).

    Bilinear between the centres of the outermost patches, which stay where they are, as released; timm's own
    conversion takes the edges of the grid for fixed.

    Raises:
        UserError: the positions are of no square grid.
    """
    side = math.isqrt(positions.shape[1] - 1)
    if side**2 != positions.shape[1] - 1:
        raise UserError(
            f"Positions of {positions.shape[1]} tokens are not those of a class token and a square grid, and cannot "
            "be resized; build the model with the file's sizes (img_size)."
        )
    square = positions[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid, mode="bilinear", align_corners=True)
    return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


def _released_names(name: str) -> list[str]:
    """The released names of what timm calls ``name``: three for queries, keys and values, else one."""
    module, _, kind = name.rpartition(".")
    leaf = kind if kind == "bias" else "scale" if "norm" in module.rpartition(".")[2] else "kernel"
    if name in _TENSORS:
        return [_TENSORS[name]]
    if module in _MODULES:
        return [f"{_MODULES[module]}/{leaf}"]
    if name.startswith(_BACKBONE):
        return [f"{_resnet_name(module.removeprefix(_BACKBONE))}/{leaf}"]
    if block := re.fullmatch(r"blocks\.(\d+)\.(.+)", module):
        path = f"Transformer/encoderblock_{block[1]}"
        if block[2] == "attn.qkv":
            return [f"{path}/{_ATTENTION}/{part}/{leaf}" for part in _QKV]
        if block[2] in _BLOCK:
            return [f"{path}/{_BLOCK[block[2]]}/{leaf}"]
    return [name]


def _resnet_name(module: str) -> str:
    """Of a hybrid's convolutional part: ``stages.0.blocks.1.conv2`` is ``block1/unit2/conv2``."""
    if unit := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.(downsample\.)?(\w+)", module):
        part = unit[4].replace("norm", "gn") + ("_proj" if unit[3] else "")
        return f"block{int(unit[1]) + 1}/unit{int(unit[2]) + 1}/{part}"
    return module.removeprefix("stem.").replace("norm", "gn") + "_root"


def _from_flax(name: str, values: list[Tensor]) -> Tensor:
    """One tensor of timm's from its released parts."""
    if name.endswith("attn.qkv.weight"):
        return torch.cat([value.flatten(1).T for value in values])
    if name.endswith("attn.qkv.bias"):
        return torch.cat([value.flatten() for value in values])
    (value,) = values
    if name.endswith("attn.proj.weight"):
        return value.flatten(0, 1).T
    if name in _TENSORS:
        return value
    if value.shape[:3] == (1, 1, 1) and name.startswith(_BACKBONE) and "norm" in name:
        return value.flatten()  # group norms of some files
    return value.permute(_FROM_FLAX[value.ndim])


def _to_flax(name: str, value: Tensor, heads: int) -> list[Tensor]:
    """The released parts of one of timm's tensors."""
    if name.endswith("attn.qkv.weight"):
        return [part.T.unflatten(1, (heads, -1)) for part in value.chunk(3)]
    if name.endswith("attn.qkv.bias"):
        return [part.unflatten(0, (heads, -1)) for part in value.chunk(3)]
    if name.endswith("attn.proj.weight"):
        return [value.T.unflatten(0, (heads, -1))]
    return [value if name in _TENSORS else value.permute(_TO_FLAX[value.ndim])]
