"""Names and layouts of released RaftMLP checkpoints, and those of `papers.raftmlp.model`.

The release numbers its layers; weights of embeddings are those of a linear layer of patches laid out in a row, and the
norms before token mixing count channels raft by raft.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Released names and layouts to those of the model; names that no release has stay as they are."""
    names, rafts, embeddings = dict(_names(model)), _rafts(model), dict(_embeddings(model))
    converted: dict[str, Tensor] = {}
    for released, value in state_dict.items():
        name = names.get(released, released)
        if released in embeddings:
            converted |= _kernels(value, embeddings[released], model.several_scales)
        elif name in rafts and value.numel() % rafts[name] == 0:
            converted[name] = value.view(-1, rafts[name]).mT.flatten()
        else:
            converted[name] = value
    return converted


def released_state_dict(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The inverse of :func:`checkpoint_filter_fn`."""
    names, rafts = {ours: released for released, ours in _names(model)}, _rafts(model)
    released: dict[str, Tensor] = {}
    for name, kernels in _embeddings(model):
        released[name] = _flat([state_dict[kernel] for kernel in kernels], model.several_scales)
    taken = {kernel for _, kernels in _embeddings(model) for kernel in kernels}
    for name, value in state_dict.items():
        if name not in taken:
            value = value.view(rafts[name], -1).mT.flatten() if name in rafts else value
            released[names.get(name, name)] = value
    return released


def _names(model: Any) -> Iterator[tuple[str, str]]:
    """Released names of parameters, but for weights of embeddings, each with ours."""
    for kind in ("weight", "bias"):
        yield f"heads.0.1.{kind}", f"norm.{kind}"
        yield f"classifier.{kind}", f"head.{kind}"
        for level, own in enumerate(model.levels):
            for index, block in enumerate(own.blocks):
                ours, released = f"levels.{level}.blocks.{index}", f"levels.{level}.fn.{index + 2}"
                mixers = [name for name, _ in block.mixing.named_children()]
                for place, mixer in enumerate(mixers):
                    yield f"{released}.{2 * place + 1}.norm.1.{kind}", f"{ours}.mixing.{mixer}.norm.{kind}"
                    yield f"{released}.{2 * place + 1}.fn.0.{kind}", f"{ours}.mixing.{mixer}.mlp.fc1.{kind}"
                    yield f"{released}.{2 * place + 1}.fn.3.{kind}", f"{ours}.mixing.{mixer}.mlp.fc2.{kind}"
                channels = 2 * len(mixers) + 1
                yield f"{released}.{channels}.norm.{kind}", f"{ours}.norm.{kind}"
                yield f"{released}.{channels}.fn.0.{kind}", f"{ours}.mlp.fc1.{kind}"
                yield f"{released}.{channels}.fn.3.{kind}", f"{ours}.mlp.fc2.{kind}"
    for level in range(len(model.levels)):
        yield f"{_embedding(model, level)}.bias", f"levels.{level}.embed.bias"


def _embedding(model: Any, level: int) -> str:
    return f"levels.{level}.fn.0.fc" if model.several_scales else f"levels.{level}.fn.1"


def _embeddings(model: Any) -> Iterator[tuple[str, dict[str, torch.Size]]]:
    """Released names of embeddings' weights, each with our names of its kernels and their shapes."""
    for level, own in enumerate(model.levels):
        if kernels := getattr(own.embed, "kernels", None):
            shapes = {f"levels.{level}.embed.kernels.{i}": kernel.shape for i, kernel in enumerate(kernels)}
            yield f"{_embedding(model, level)}.weight", shapes


def _rafts(model: Any) -> dict[str, int]:
    """Our names of norms before token mixing, each with the channels of a raft."""
    return {
        f"{name}.norm.{kind}": part.raft
        for name, part in model.named_modules()
        if hasattr(part, "raft")
        for kind in ("weight", "bias")
    }


def _kernels(weight: Tensor, shapes: Mapping[str, torch.Size], several_scales: bool) -> dict[str, Tensor]:
    """The kernels of a linear layer of patches; the whole under the first one's name where it has another size."""
    sizes = [shape[1:].numel() for shape in shapes.values()]
    if weight.ndim != 2 or weight.shape[1] != sum(sizes):
        return {next(iter(shapes)): weight}
    found = {}
    for (name, shape), part in zip(shapes.items(), weight.split(sizes, dim=1), strict=True):
        _, channels, height, width = shape
        if several_scales:  # channels first
            found[name] = part.unflatten(1, (channels, height, width))
        else:
            found[name] = part.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
    return found


def _flat(kernels: list[Tensor], several_scales: bool) -> Tensor:
    """The linear layer of patches that kernels are of."""
    layout = kernels if several_scales else [kernel.permute(0, 2, 3, 1) for kernel in kernels]
    return torch.cat([kernel.flatten(1) for kernel in layout], dim=1)
