"""Names and layouts of released checkpoints, and those of `papers.evolving_attention`.

The residual network's are TensorFlow's: layers are numbered in the order in which they were made, and kernels have
their output last. The time-series network's are PyTorch's, with tensors that no layer reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Names and layouts of TensorFlow to those of a residual network; timm's are as they are."""
    if not hasattr(model, "stages"):
        return dict(state_dict)
    names = dict(_names(model))
    return {names.get(name, name): _torch(value) if _is_kernel(name) else value for name, value in state_dict.items()}


def released_state_dict(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The inverse of :func:`checkpoint_filter_fn`."""
    if not hasattr(model, "stages"):
        return dict(state_dict)
    names = {ours: released for released, ours in _names(model)}
    return {
        names[name]: _tensorflow(value) if _is_kernel(names[name]) else value
        for name, value in state_dict.items()
        if not name.endswith("num_batches_tracked")  # TensorFlow counts no batches
    }


def _is_kernel(released: str) -> bool:
    return released.endswith("/kernel")


def _torch(kernel: Tensor) -> Tensor:
    """A kernel of TensorFlow's, whose output is last, with its output first."""
    return kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.mT


def _tensorflow(kernel: Tensor) -> Tensor:
    """The inverse of :func:`_torch`."""
    return kernel.permute(2, 3, 1, 0) if kernel.ndim == 4 else kernel.mT


def _names(model: Any) -> Iterator[tuple[str, str]]:
    """TensorFlow's names of a residual network's tensors, each with ours."""
    made = {"conv2d": 0, "batch_normalization": 0}

    def number(kind: str) -> str:
        made[kind] += 1
        return f"resnet_model/{kind}" + (f"_{made[kind] - 1}" if made[kind] > 1 else "")

    def convolution_and_norm(conv: str, norm: str) -> Iterator[tuple[str, str]]:
        if conv:
            yield f"{number('conv2d')}/kernel", f"{conv}.weight"
        released = number("batch_normalization")
        for theirs, ours in (
            ("gamma", "weight"), ("beta", "bias"), ("moving_mean", "running_mean"), ("moving_variance", "running_var")
        ):  # fmt: skip
            yield f"{released}/{theirs}", f"{norm}.{ours}"

    yield from convolution_and_norm("conv1", "bn1")
    for stage, blocks in enumerate(model.stages):
        for index, block in enumerate(blocks):
            ours = f"stages.{stage}.{index}"
            if block.shortcut is not None:
                yield from convolution_and_norm(f"{ours}.shortcut.0", f"{ours}.shortcut.1")
            yield from convolution_and_norm(f"{ours}.conv1", f"{ours}.bn1")
            augmented = hasattr(block.conv2, "kqv")
            if augmented:
                yield from _augmented(f"resnet_model/asconv_{stage}_{index}_0", f"{ours}.conv2", block.conv2)
            yield from convolution_and_norm("" if augmented else f"{ours}.conv2", f"{ours}.bn2")
            yield from convolution_and_norm(f"{ours}.conv3", f"{ours}.bn3")
    yield "resnet_model/dense/kernel", "head.weight"
    yield "resnet_model/dense/bias", "head.bias"


def _augmented(released: str, ours: str, layer: Any) -> Iterator[tuple[str, str]]:
    """The names of an augmented convolution's tensors."""
    yield f"{released}/conv2d/kernel", f"{ours}.conv.weight"
    yield f"{released}/r_width", f"{ours}.columns"
    yield f"{released}/r_height", f"{ours}.rows"
    parts = [
        "kqv",
        *(["evolution.conv"] if layer.evolution is not None and layer.evolution.conv is not None else []),
        "proj",
    ]
    for number, part in enumerate(parts, start=1):
        yield f"{released}/conv2d_{number}/kernel", f"{ours}.{part}.weight"
        yield f"{released}/conv2d_{number}/bias", f"{ours}.{part}.bias"


#: Tensors of the time-series network that its release stores and reads nowhere.
UNREAD = re.compile(r"(pool_input|pool_input_att|att_conv2\.0)\.(weight|bias)$")
_BLOCKS = ("TSEACausalCnn.ea_causal_cnn.network.", "blocks.")
_CONVOLUTION = (".att_conv.0.", ".evolution.conv.")


def series_from_released(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Released names of the time-series network to ours, without what is not read."""
    return {
        name.replace(*_BLOCKS).replace(*_CONVOLUTION): value
        for name, value in state_dict.items()
        if not UNREAD.search(name)
    }


def series_to_released(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The inverse of :func:`series_from_released`; what is not read is zero."""
    released = {}
    for name, value in state_dict.items():
        theirs = name.replace(*_BLOCKS[::-1]).replace(*_CONVOLUTION[::-1])
        released[theirs] = value
        layer, _, rest = theirs.rpartition(".conv.weight_v")
        if layer and not rest:
            heads, channels, size = model.heads, *value.shape[1:]
            released[f"{layer}.pool_input.weight"] = value.new_zeros(channels, channels, size)
            released[f"{layer}.pool_input_att.weight"] = value.new_zeros(heads, heads, size, size)
        if theirs.endswith(".att_conv.0.weight"):
            heads = len(value)
            unread = theirs.replace("att_conv.", "att_conv2.")
            released[unread] = value.new_zeros(heads, 2 * heads, *value.shape[2:])
            released[unread.replace("weight", "bias")] = value.new_zeros(heads)
    return released
