"""How RVT's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from common import bench
from common.measurement import Measurement, Result
from common.profiling import size
from common.run import Run
from papers.rvt.model import RobustTransformer, create
from papers.rvt.training import hooks

RECIPE = Path(__file__).with_name("recipe.toml")

#: A small RVT for 28x28 images: 7x7 tokens, one stage; ours, not the publication's.
MINI: dict[str, Any] = {
    "img_size": 28,
    "num_classes": 10,
    "embed_dims": (32,),
    "depths": (2,),
    "num_heads": (2,),
    "mlp_ratio": 2.0,
    "stem_strides": (2, 2, 1),
    "stem_width": 16,
}
HOST, PLAIN = "vit_mini", "rvt_mini"
AUGMENTED, RELEASED = f"{PLAIN}+patch_augmentation", f"{PLAIN}+patch_augmentation.released"


def prepared(model: RobustTransformer) -> nn.Module:
    """A model of ``MINI`` with the stem and the first weights of the bench's hosts, in place.

    RVT's own stem, a 7x7 convolution and pooling, is made for large images. With the stem of the ViT beside it, what is
    compared comes after the stem.
    """
    model.patch_embed = bench.hosts.Stem(embed_dim=model.embed_dim).proj
    bench.hosts.initialise(model)
    return model


def mini() -> nn.Module:
    """The small RVT."""
    return prepared(create("rvt_tiny", **MINI))


def small_rvt() -> bench.Contender:
    """The small RVT as it is; also the host of VARS."""
    return bench.Contender(PLAIN, mini)


def contenders() -> list[bench.Contender]:
    """A ViT; a small RVT without patch-wise augmentation, with it, and with it as released."""
    augmented = [
        bench.Contender(
            name,
            mini,
            hooks=hooks,
            changes=("method.patch_augmentation=true", f"method.patch_augmentation_gradient={gradient}"),
            recipe=RECIPE,
        )
        for name, gradient in ((AUGMENTED, "kept"), (RELEASED, "discarded"))
    ]
    return [bench.host(HOST), small_rvt(), *augmented]


def model_size(name: str) -> Iterator[Measurement]:
    """The printed size of RVT-B* is that of the published form, scaled in all 12 blocks; the released beside it."""
    if name == "rvt_base_plus":
        yield from size.model_size(name, scaled_blocks=12)
        yield from size.model_size(name, form=f"{name}.released")
    else:
        yield from size.model_size(name)


def components(run: Run) -> Iterator[Result]:
    """Train a ViT and small RVTs with the same stem; compare the ViT with the plain one."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from (m for m in bench.measurements(scores) if m.model in (HOST, PLAIN))
    yield from bench.findings(scores, f"{PLAIN} > {HOST}: corruption_top1", f"{PLAIN} > {HOST}: top1")
    yield bench.corruption_picture("components", scores)


def patch_augmentation(run: Run) -> Iterator[Result]:
    """Train a small RVT without patch-wise augmentation, with it, and with it as released."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from (m for m in bench.measurements(scores) if m.model in (AUGMENTED, RELEASED))
    yield from bench.findings(scores, f"{AUGMENTED} > {PLAIN}: corruption_top1", f"{RELEASED} = {PLAIN}: top1")
    yield bench.difference_picture("patch_augmentation", scores, PLAIN)
