"""The bench's vision transformer with attention that evolves, and a picture of its maps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from common import bench, figures
from common.bench import hosts
from common.measurement import Picture
from papers.evolving_attention.maps import Evolution
from papers.evolving_attention.model import EvolvingVisionTransformer


def evolving_vit_mini(alpha: float = 0.5, beta: float = 0.5) -> VisionTransformer:
    """vit_mini with maps that evolve, see :class:`EvolvingVisionTransformer`."""
    model = hosts.vit_mini(kind=EvolvingVisionTransformer, alpha=alpha, beta=beta)
    for part in model.modules():
        if isinstance(part, Evolution) and part.conv is not None:
            # Convolutions of three heads take half the time so on a CPU.
            part.conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


@torch.no_grad()
def attention_maps(model: nn.Module, image: Tensor) -> list[Tensor]:
    """The attention (N, N) of every block to one image (3, H, W), mean over heads, of vit_mini or an evolving one."""
    if not isinstance(model, EvolvingVisionTransformer):
        plain = evolving_vit_mini(alpha=0.0, beta=0.0).eval()
        plain.load_state_dict(model.state_dict())
        return attention_maps(plain, image)
    maps = model.eval().features_and_maps(image[None])[1]
    return [each.softmax(dim=-1)[0].mean(dim=0) for each in maps]


def maps_picture(models: Mapping[str, nn.Module]) -> Picture:
    """Attention maps over blocks (columns) of every network (rows), to one test image."""
    image = bench.test_set(quick=True).clean.flatten(0, 1)[0].float() / 255
    maps = {label: attention_maps(model, image) for label, model in models.items()}
    columns = max(len(each) for each in maps.values())
    with figures.figure("maps", 1.7 * columns + 2.0, 1.7 * len(maps)) as drawn:
        grid = drawn.subplots(len(maps), columns, squeeze=False)
        for row, (label, each) in zip(grid, maps.items(), strict=True):
            for block, (axes, attention) in enumerate(zip(row, each, strict=True), start=1):
                axes.imshow(attention.numpy(), cmap="viridis", vmin=0)
                axes.set(xticks=[], yticks=[], title=f"block {block}")
            row[0].set_ylabel(label, rotation=0, ha="right", va="center")
        svg = figures.to_svg(drawn)
    return Picture(
        name="maps",
        caption=(
            "Attention of every token (rows of a map) to every other one, mean over heads, to the first test image; "
            "the class token is the first row and column."
        ),
        svg=svg,
    )
