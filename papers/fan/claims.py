"""How FAN's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from common import bench
from common.measurement import Result
from common.run import Run
from papers.fan import token_groups
from papers.fan.layers import ChannelAttention
from papers.fan.model import create

#: A small FAN-ViT for 28x28 images: 7x7 tokens; ours, not the publication's.
MINI: dict[str, Any] = {
    "img_size": 28,
    "num_classes": 10,
    "patch_size": 4,
    "embed_dim": 40,
    "depth": 2,
    "num_heads": 2,
    "cls_attn_layers": 1,
    "mlp_ratio": 2.0,
}
ATTENTION, CONVOLUTION, MLP = "fan_mini", "fan_mini.convolution", "fan_mini.mlp"
#: What stands in place of channel attention, each as wide as it takes to have as many parameters.
CHANNELS: dict[str, dict[str, Any]] = {
    ATTENTION: {},
    CONVOLUTION: {"channel_processing": "convolution", "mlp_ratio": 2.3},
    MLP: {"channel_processing": "mlp", "mlp_ratio": 2.74},
}


def mini(**channels: Any) -> nn.Module:
    """The small FAN-ViT with the first weights of the bench's hosts."""
    model = create("fan_tiny_12_p16_224", **{**MINI, **channels})
    bench.hosts.initialise(model)
    for block in model.blocks:
        if isinstance(block.mlp, ChannelAttention):
            nn.init.zeros_(block.mlp.norm_v.weight)  # ends its branch, which starts at zero as any other
    for block in model.cls_attn_blocks:
        block.attn.proj.reset_parameters()  # all that the class token knows of the image comes through it
    return model


def contenders() -> list[bench.Contender]:
    """Small FANs that are alike but for the processing of channels."""
    return [bench.Contender(name, partial(mini, **channels)) for name, channels in CHANNELS.items()]


def channel_attention(run: Run) -> Iterator[Result]:
    """Train a small FAN with channel attention, with its convolutions alone, and with a plain MLP; compare."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores, f"{ATTENTION} > {MLP}: corruption_top1", f"{ATTENTION} > {CONVOLUTION}: corruption_top1"
    )
    yield bench.difference_picture("channel_attention", scores, MLP)
    yield bench.corruption_picture("corruptions", scores)


def visual_grouping(run: Run) -> Iterator[Result]:
    """Cluster the tokens of the small FANs on canvases with two garments; compare the clusters with the garments."""
    yield from token_groups.measure(run, contenders(), attention=ATTENTION, mlp=MLP)
