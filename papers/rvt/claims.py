"""How RVT's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import timm

from common.measurement import Result
from common.profiling import count
from common.robustness import embedded
from common.run import Run
from papers.rvt import PAPER
from papers.rvt.model import create
from papers.rvt.training import hooks

RECIPE = Path(__file__).with_name("recipe.toml")

#: A small RVT for 28x28 images: 7x7 tokens, one stage; ours, not the publication's.
MINI = {
    "img_size": 28,
    "num_classes": 10,
    "embed_dims": (32,),
    "depths": (2,),
    "num_heads": (2,),
    "stem_strides": (2, 2, 1),
    "stem_width": 16,
}


def size(run: Run) -> Iterator[Result]:
    """Count every RVT. The printed size of RVT-B* is that of the published form, scaled in all 12 blocks."""
    for model in PAPER.models:
        if model.name == "rvt_base_plus":
            yield from count(timm.create_model(model.name, scaled_blocks=12), model.name)
            yield from count(timm.create_model(model.name), f"{model.name}.released")
        else:
            yield from count(timm.create_model(model.name), model.name)


def small_models() -> list[embedded.Contender]:
    """A small RVT without patch-wise augmentation, with it, and with it as released."""
    build = partial(create, "rvt_tiny", **MINI)
    augmented = [
        embedded.Contender(
            f"rvt_mini+patch_augmentation{suffix}",
            build,
            hooks=hooks,
            changes=("method.patch_augmentation=true", f"method.patch_augmentation_gradient={gradient}"),
        )
        for suffix, gradient in (("", "kept"), (".released", "discarded"))
    ]
    return [embedded.Contender("rvt_mini", build), *augmented]


def patch_augmentation(run: Run) -> Iterator[Result]:
    """Train a small RVT without patch-wise augmentation, with it, and with it as released."""
    contenders = small_models()
    plain = contenders[0].name
    table = embedded.compare(run, contenders, RECIPE)
    yield from embedded.measurements(table.drop(index=plain, level="model"), run.settings.quick)
    yield from embedded.more_robust(table, plain)
    yield embedded.difference_picture("patch_augmentation", table, plain)
