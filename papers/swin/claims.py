"""How Swin's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from common import bench
from common.measurement import Measurement, Result
from common.profiling import count, flops
from common.run import Run
from common.shapes import shapes_only
from papers.swin import complexity as area
from papers.swin import windows

#: A small Swin for 28x28 images: 14x14 tokens in 2x2 windows, then 7x7 tokens in one; ours, not the publication's.
MINI: dict[str, Any] = {
    "img_size": 28,
    "num_classes": 10,
    "patch_size": 2,
    "window_size": 7,
    "embed_dim": 16,
    "depths": (2, 2),
    "num_heads": (1, 2),
    "mlp_ratio": 2.0,
    "drop_path_rate": 0.0,
    "weight_init": "skip",  # the bench's takes its place
}
SHIFTED, PLAIN = "swin_mini", "swin_mini.plain_windows"


class Stem(nn.Module):
    """Two 3x3 convolutions, one of stride 2: images (B, 3, H, W) to tokens (B, H/2, W/2, C).

    As in the bench's hosts, it stands in the place of the projection of patches.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            *bench.hosts.convolution(3, dim, stride=2), nn.ReLU(inplace=True), nn.Conv2d(dim, dim, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Embed images."""
        return self.proj(x).permute(0, 2, 3, 1)


def network(shifted: bool) -> SwinTransformer:
    """The small Swin, with or without the shift of every second block; all else is alike, parameters included."""
    model = SwinTransformer(**MINI)
    if not shifted:
        for stage in model.layers:
            for block in stage.blocks:
                block.shift_size, block.attn_mask = (0, 0), None
    return model


def mini(shifted: bool) -> nn.Module:
    """The small Swin with a stem and first weights that the bench can train."""
    model = network(shifted)
    model.patch_embed = Stem(MINI["embed_dim"])
    bench.hosts.initialise(model)
    return model


def contenders() -> list[bench.Contender]:
    """Small Swins that are alike but for the shift."""
    return [
        bench.Contender(SHIFTED, partial(mini, shifted=True)),
        bench.Contender(PLAIN, partial(mini, shifted=False)),
    ]


def model_size(name: str) -> Iterator[Measurement]:
    """Parameters, and multiply-adds as the release counts them.

    It takes one for each element of a norm, where fvcore takes five, and none for the networks that give SwinV2's
    position biases, which do not depend on the image.
    """
    with shapes_only():
        model = timm.create_model(name)
    params, operations = count(model, name, model.pretrained_cfg["input_size"])
    norms = operations.detail["by_operator"].get("layer_norm", 0)
    biases = sum(
        flops(module.cpb_mlp, inputs=module.relative_coords_table).total
        for module in model.modules()
        if hasattr(module, "cpb_mlp")
    )
    yield params
    yield replace(
        operations,
        value=operations.value - (0.8 * norms + biases) / 1e9,
        protocol=f"{operations.protocol}, but one for an element of a norm and none for position biases",
        detail={**operations.detail, "position_biases": biases},
    )


def cyclic_shift(run: Run) -> Iterator[Result]:
    """Shifted windows by a cyclic shift and a mask, against attention within each window of the shifted partition."""
    yield windows.cyclic_shift()
    torch.manual_seed(0)
    yield windows.reach(network(shifted=True).layers[0], network(shifted=False).layers[0])


def complexity(run: Run) -> Iterator[Result]:
    """Multiply-adds and time over the image's area, with windows and with global attention."""
    yield from area.multiply_adds(quick=run.settings.quick)
    yield from area.time(quick=run.settings.quick, device=run.settings.device)


def shifted_windows(run: Run) -> Iterator[Result]:
    """Train a small Swin with shifted and with plain windows; compare."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(scores, f"{SHIFTED} > {PLAIN}: top1", f"{SHIFTED} > {PLAIN}: corruption_top1")
    yield bench.difference_picture("shifted_windows", scores, PLAIN)
    yield bench.corruption_picture("corruptions", scores)
