"""Names and layouts of the released TensorFlow checkpoints.

TensorFlow numbers convolutions and batch norms in the order in which the released code makes them: the stem, then block
by block the shortcut before the rest. Kernels are (height, width, in, out) there and (out, in, height, width) here,
those of linear layers (in, out) and (out, in). The numbering follows from the released resnet.py and model_util.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from common.errors import UserError

#: Ends of names that training leaves in a checkpoint and that are no weights.
BOOKKEEPING = ("/Momentum", "/ExponentialMovingAverage", "global_step")
#: The parts of our networks that are the release's base network.
BASE = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
#: Our name of a batch norm's tensor, and the released one.
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def names(model: nn.Module) -> dict[str, str]:
    """The released name of every tensor of a :class:`papers.simclr.model.SimCLR` that the release has."""
    table: dict[str, str] = {}
    counts = {"conv2d": 0, "batch_normalization": 0}

    def number(kind: str) -> str:
        counts[kind] += 1
        return f"base_model/{kind}" + (f"_{counts[kind] - 1}" if counts[kind] > 1 else "")

    for name, module in _in_order(model):
        if isinstance(module, nn.Conv2d):
            table[f"{name}.weight"] = f"{number('conv2d')}/kernel"
        elif isinstance(module, nn.BatchNorm2d):
            scope = number("batch_normalization")
            table |= {f"{name}.{ours}": f"{scope}/{theirs}" for ours, theirs in NORM.items()}
    last = len(model.get_submodule("projection.linear")) - 1
    for layer in range(last + 1):
        scope = f"head_contrastive/nl_{layer}"
        table[f"projection.linear.{layer}.weight"] = f"{scope}/dense/kernel"
        table |= {
            f"projection.norm.{layer}.{ours}": f"{scope}/batch_normalization/{theirs}"
            for ours, theirs in NORM.items()
            if not (layer == last and ours == "bias")  # the last norm has none in the release
        }
    for ours, theirs in (("weight", "kernel"), ("bias", "bias")):
        table[f"fc.{ours}"] = f"head_supervised/linear_layer/dense/{theirs}"
    return table


def to_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Tensors under our names and in our layout.

    A state without TensorFlow's names, as converters to PyTorch write it, keeps its names. A projection head that the
    file lacks, as those of SimCLRv1 do, is taken from ``model``: only pre-training and the fine-tuned networks of
    SimCLRv2 use it, and those must have it.
    """
    state = {name.removeprefix("ema_model/"): value for name, value in state.items() if not name.endswith(BOOKKEEPING)}
    own = model.state_dict()
    if any(name.startswith("base_model/") for name in state):
        table = {theirs: ours for ours, theirs in names(model).items()}
        state = {table.get(name, name): _turned(value, back=True) for name, value in state.items()}
        state.setdefault(last_bias(model), torch.zeros_like(own[last_bias(model)]))
    if not any(name.startswith("projection.") and name != last_bias(model) for name in state):
        if getattr(model, "kept_layers", 0):
            raise UserError(
                "The file has no projection head, on which the classifier of this network stands: build the network "
                "without _finetuned."
            )
        state |= {name: value for name, value in own.items() if name.startswith("projection.")}
    return state


def from_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The inverse of :func:`to_ours`; what the release does not have keeps its name."""
    table = names(model)
    return {table.get(name, name): _turned(value) if name in table else value for name, value in state.items()}


def last_bias(model: nn.Module) -> str:
    """Our name of the tensor that the release does not have: the bias after the projection head's last layer."""
    return f"projection.norm.{len(model.get_submodule('projection.linear')) - 1}.bias"


def _in_order(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of the base network, the shortcut of a block before the rest of it."""
    base = [(name, module) for name, module in model.named_modules() if name.partition(".")[0] in BASE]
    blocks = {name: place for place, name in enumerate(dict.fromkeys(_block(name) for name, _ in base))}
    return iter(sorted(base, key=lambda item: (blocks[_block(item[0])], ".downsample" not in item[0])))


def _block(name: str) -> str:
    """The block of a module, ``layer2.0``, or the part of the stem."""
    return ".".join(name.split(".")[: 2 if name.startswith("layer") else 1])


def _turned(value: Tensor, back: bool = False) -> Tensor:
    """A kernel in the other layout; anything else as it is."""
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1) if back else value.permute(2, 3, 1, 0)
    return value.T if value.ndim == 2 else value
