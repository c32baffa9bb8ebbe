"""Names and layouts of the released Haiku checkpoints, as the README's lines save them.

Modules are named by their path in the released code, ``res_net50/~/block_group_0/~/block_0/~/conv_0``; behind it stands
the tensor: ``w`` of convolutions, ``scale`` and ``offset`` of batch norms, ``~/mean_ema/average`` and
``~/var_ema/average`` of their statistics. Kernels are (height, width, in, out) there and (out, in, height, width) here.
Batch norms of Haiku have (1, 1, 1, C), ours (C). The names follow from utils/networks.py and from Haiku's own ResNet;
no released file was at hand to compare them with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from common.errors import UserError

#: Our name of a batch norm's tensor, and the released one.
NORM = {
    "weight": "scale",
    "bias": "offset",
    "running_mean": "~/mean_ema/average",
    "running_var": "~/var_ema/average",
}
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.(.+)")
_PARTS = {
    "downsample.0": "shortcut_conv",
    "downsample.1": "shortcut_batchnorm",
    **{f"conv{n + 1}": f"conv_{n}" for n in range(3)},
    **{f"bn{n + 1}": f"batchnorm_{n}" for n in range(3)},
}
#: Of the classifier, which a linear evaluation of the release trains in a module of its own.
_CLASSIFIER = {"fc.weight": "linear/w", "fc.bias": "linear/b"}
#: The first convolution of any encoder, before which its name stands.
_FIRST = "/~/initial_conv/w"


def names(model: nn.Module) -> dict[str, str]:
    """The released name, without the encoder's own, of every tensor of a ``ReLIC`` that the release has."""
    table: dict[str, str] = {}
    for name, module in model.named_modules():
        if name.startswith("projection"):
            continue
        if isinstance(module, nn.Conv2d):
            table[f"{name}.weight"] = f"{_scope(name)}/w"
        elif isinstance(module, nn.BatchNorm2d):
            table |= {f"{name}.{ours}": f"{_scope(name)}/{theirs}" for ours, theirs in NORM.items()}
    return table


def _scope(name: str) -> str:
    """The released path of one of our modules."""
    if name in ("conv1", "bn1"):
        return f"~/initial_{'conv' if name == 'conv1' else 'batchnorm'}"
    found = _BLOCK.fullmatch(name)
    assert found is not None, name
    stage, block, part = found.groups()
    return f"~/block_group_{int(stage) - 1}/~/block_{block}/~/{_PARTS[part]}"


def to_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Tensors under our names and in our layout.

    A state without Haiku's names keeps its names. What a released file has of pre-training beside the encoder (its
    heads, and what batch norms count) is left out; the projection head is that of ``model`` then.

    Raises:
        UserError: the file is of a release, and has no first convolution.
    """
    own = model.state_dict()
    if not any("/~/" in name for name in state):
        return dict(state)
    first = [name for name in state if name.endswith(_FIRST)]
    if len(first) != 1:
        raise UserError(f"The file has {len(first)} tensors named ENCODER{_FIRST}, not one: save one encoder alone.")
    encoder = first[0].removesuffix(_FIRST)
    table = {f"{encoder}/{theirs}": ours for ours, theirs in names(model).items()}
    table |= {theirs: ours for ours, theirs in _CLASSIFIER.items()}
    ours: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in table:
            ours[table[name]] = _turned(value, own[table[name]])
        elif "/" not in name or (name.startswith(f"{encoder}/") and not name.endswith(("/hidden", "/counter"))):
            ours[name] = value  # no name of Haiku's, or of another network, as strict loading tells
    head = {name: value for name, value in own.items() if name.startswith("projection.")}
    return {**head, **ours}


def from_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The inverse of :func:`to_ours`; what the release does not have keeps its name."""
    table = {ours: f"{encoder_name(model)}/{theirs}" for ours, theirs in names(model).items()} | _CLASSIFIER
    return {table.get(name, name): _back(value, name) if name in table else value for name, value in state.items()}


def encoder_name(model: nn.Module) -> str:
    """What Haiku calls the encoder: its class in snake case, with the number of its layers."""
    convolutions = [name for name in names(model) if name.startswith("layer") and ".conv" in name]
    return f"res_net{2 + len(convolutions)}"


def _turned(value: Tensor, like: Tensor) -> Tensor:
    """A tensor of the release in our layout."""
    if like.ndim == 4 and value.ndim == 4:
        return value.permute(3, 2, 0, 1)
    if like.ndim == 1 and value.ndim == 4 and value.shape[:3] == (1, 1, 1):
        return value.flatten()
    return value.T if value.ndim == 2 else value


def _back(value: Tensor, name: str) -> Tensor:
    if value.ndim == 4:
        return value.permute(2, 3, 1, 0)
    if name.startswith("fc."):
        return value.T if value.ndim == 2 else value
    return value.view(1, 1, 1, -1) if value.ndim == 1 else value
