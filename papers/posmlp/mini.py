"""A small PosMLP for the bench, with each encoding, and a picture of what it learns of positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from common import figures
from common.bench import hosts
from common.measurement import Picture
from papers.posmlp.model import PosGU, PosMLP

#: One window of 14x14 tokens, then one of 7x7: those of the publication's first and last level.
MINI: dict[str, Any] = {
    "img_size": hosts.SIDE,
    "num_classes": hosts.CLASSES,
    "dims": (16, 48),
    "depths": (1, 2),
    "windows": (14, 7),
    "groups": (8, 8),
    "mlp_ratios": (2.0, 4.0),
}


def stem(in_chans: int, dim: int) -> nn.Module:
    """Two 3x3 convolutions, as the bench's hosts begin: images (B, in_chans, H, W) to (B, C, H / 2, W / 2)."""
    return nn.Sequential(
        *hosts.convolution(in_chans, dim, stride=2), nn.ReLU(inplace=True), nn.Conv2d(dim, dim, 3, padding=1)
    )


def posmlp_mini(**changes: Any) -> PosMLP:
    """A PosMLP of two levels; ``changes`` are arguments of :class:`PosMLP` that differ.

    Layers start as PyTorch starts them. Branches do not start at zero as those of the bench's hosts do: the table of
    LRPE does, and where the projection behind it did, too, neither would ever get a gradient.
    """
    model = PosMLP(**{**MINI, "stem": stem, "stem_stride": 2, **changes})
    for part in model.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            part.reset_parameters()
    return model


def looks(model: nn.Module) -> Tensor:
    """How the middle token of the first level's last block weighs tokens of its window: (G, window, window)."""
    gate = [part for part in model.levels[0].modules() if isinstance(part, PosGU)][-1]  # type: ignore[index,union-attr]
    weights = gate.weights().detach()
    side = round(weights.shape[-1] ** 0.5)
    return weights[:, (side // 2) * side + side // 2].unflatten(-1, (side, side))


def looks_picture(models: Mapping[str, nn.Module]) -> Picture:
    """Learned weights of token mixing by encoding (rows) and group of channels (columns)."""
    maps = {label: looks(model) for label, model in models.items()}
    columns = max(len(each) for each in maps.values())
    with figures.figure("looks", 0.8 * columns + 1.2, 0.9 * len(maps)) as drawn:
        grid = drawn.subplots(len(maps), columns, squeeze=False)
        for row, (label, each) in zip(grid, maps.items(), strict=True):
            for axes, weights in zip(row, each, strict=False):
                reach = float(weights.abs().max()) or 1.0  # a table starts at zero
                axes.imshow(weights.numpy(), cmap="RdBu", vmin=-reach, vmax=reach)
            for axes in row:
                axes.set(xticks=[], yticks=[], frame_on=False)
            row[0].set_ylabel(label, rotation=0, ha="right", va="center")
        svg = figures.to_svg(drawn)
    return Picture(
        name="looks",
        caption=(
            "How the middle token of the first level's last block weighs the tokens of its window, a picture for each "
            "group of channels that has weights of its own; blue adds, red subtracts, each to its own scale."
        ),
        svg=svg,
    )
