"""How FAN's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from common.measurement import Result
from common.profiling import count
from common.robustness import embedded
from common.run import Run
from common.shapes import shapes_only
from papers.fan import PAPER, token_groups
from papers.fan.model import create

RECIPE = Path(__file__).with_name("recipe.toml")

#: Weight tags under which the README prints the size of a model again.
TAGGED = {
    "fan_base_16_p4_hybrid": ("in22k_ft_in1k",),
    "fan_large_16_p4_hybrid": ("in22k_ft_in1k",),
}

#: A small FAN-ViT for 28x28 images: 7x7 tokens; ours, not the publication's.
MINI: dict[str, Any] = {
    "img_size": 28,
    "num_classes": 10,
    "patch_size": 4,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "cls_attn_layers": 1,
}
ATTENTION, CONVOLUTION, MLP = "fan_mini", "fan_mini.convolution", "fan_mini.mlp"
#: What stands in place of channel attention, each as wide as it takes to have as many parameters.
CHANNELS: dict[str, dict[str, Any]] = {
    ATTENTION: {},
    CONVOLUTION: {"channel_processing": "convolution", "mlp_ratio": 4.3},
    MLP: {"channel_processing": "mlp", "mlp_ratio": 5.0},
}


def contenders() -> dict[str, embedded.Contender]:
    """Small FANs that are alike but for the processing of channels."""
    return {
        name: embedded.Contender(name, partial(create, "fan_tiny_12_p16_224", **MINI, **channels))
        for name, channels in CHANNELS.items()
    }


def small_models() -> list[embedded.Contender]:
    """What ``./reproduce.sh compare`` puts beside the models of other papers."""
    return list(contenders().values())


def size(run: Run) -> Iterator[Result]:
    """Count every variant: parameters, and multiply-adds at 224 pixels (quick: of the tiny ones), never printed."""
    for declared in PAPER.models:
        whole = not run.settings.quick or "_tiny_" in declared.name
        with nullcontext() if whole else shapes_only():
            model = timm.create_model(declared.name)
        # Parameters come first; multiply-adds take a forward pass.
        params, *operations = count(model, declared.name) if whole else islice(count(model, declared.name), 1)
        yield params
        for tag in TAGGED.get(declared.name, ()):
            yield replace(params, model=f"{declared.name}.{tag}")
        yield from operations


def channel_attention(run: Run) -> Iterator[Result]:
    """Train a small FAN with channel attention, with its convolutions alone, and with a plain MLP; compare."""
    table = embedded.compare(run, contenders().values(), RECIPE)
    yield from embedded.measurements(table, run.settings.quick)
    yield from embedded.more_robust(table, MLP)
    yield embedded.difference_picture("channel_attention", table, MLP)
    yield embedded.corruption_picture("corruptions", table)


def visual_grouping(run: Run) -> Iterator[Result]:
    """Cluster the tokens of small FANs, trained with channel attention or with a plain MLP, and untrained."""
    count = 20 if run.settings.quick else 100
    composition = token_groups.scenes(count)
    images, truth = token_groups.inputs(composition), token_groups.objects(composition)
    compared = {name: contender for name, contender in contenders().items() if name != CONVOLUTION}

    def untrained(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return compared[ATTENTION].build().to(run.settings.device).eval()

    def after_each_block(model: nn.Module) -> list[float]:
        tokens = token_groups.block_tokens(model, images, run.settings.device)
        return [token_groups.agreement(token_groups.grouped(block), truth) for block in tokens]

    scores = {
        name: [
            run.memo(
                f"grouping {name} seed {seed}",
                lambda contender=contender, seed=seed: after_each_block(embedded.trained(run, contender, seed, RECIPE)),
            )
            for seed in run.seeds()
        ]
        for name, contender in compared.items()
    }
    scores[f"{ATTENTION}.{token_groups.UNTRAINED}"] = [after_each_block(untrained(seed)) for seed in run.seeds()]
    pixels = token_groups.grouped(token_groups.pixel_tokens(composition))
    yield from token_groups.results(scores, token_groups.agreement(pixels, truth), ATTENTION, count)
    models = {name: embedded.trained(run, c, run.settings.seed, RECIPE) for name, c in compared.items()}
    yield token_groups.picture(models, run.settings.device)
