"""How AugReg's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import timm

from common import bench, figures
from common.bench import Contender, Scores, hosts, inference
from common.checkpoints import to_released
from common.measurement import Measurement, Picture, Result
from common.profiling import size
from common.run import Run
from common.shapes import shapes_only
from papers.vit import claims as vit
from papers.vit.claims import FEW, MANY, SOME, VIT, name_of

#: Classes of ImageNet-21k, as files of pre-training have them.
PRETRAINING_CLASSES = 21843
#: Light forms of both, as on ImageNet for small networks: shifted crops and mixup; dropout and stochastic depth.
AUGMENTATION = ("train_crop=padded", "crop_padding=2", "mixup=0.2", "mix_probability=1.0")
_regularised = partial(hosts.vit_mini, pos_drop_rate=0.1, proj_drop_rate=0.1, drop_path_rate=0.1)
_some = partial(bench.few_training_images, SOME)

PLAIN = {one.name: one for one in vit.contenders() if one.name.partition(".")[0] == VIT}
SOME_PLAIN, ALL_AUGREG = name_of(VIT, SOME), f"{VIT}.augreg"
#: At 6,400 images, by what is added.
AUGMENTED, REGULARISED, AUGREG = (f"{SOME_PLAIN}.{added}" for added in ("augmented", "regularised", "augreg"))


def contenders() -> list[Contender]:
    """The plain network on few, some and all images; with either or both on some, and with both on all."""
    return [
        *PLAIN.values(),
        Contender(AUGMENTED, hosts.vit_mini, changes=AUGMENTATION, data=_some),
        Contender(REGULARISED, _regularised, data=_some),
        Contender(AUGREG, _regularised, changes=AUGMENTATION, data=_some),
        Contender(ALL_AUGREG, _regularised, changes=AUGMENTATION),
    ]


def model_size(name: str) -> Iterator[Measurement]:
    """The size of a network, and of its file of pre-training, which has 21,843 classes."""
    yield from size.model_size(name)
    if name.endswith("_224"):
        with shapes_only():
            state = to_released(timm.create_model(name, num_classes=PRETRAINING_CLASSES))
        yield Measurement(
            model=f"{name}.best_i21k",
            dataset="-",
            metric="checkpoint_size",
            value=npz_bytes({name: value.numel() for name, value in state.items()}) / 2**20,
            unit="MiB",
            protocol="checkpoint_size/1 an archive of NumPy's (.npz), not compressed, of float32",
        )


def npz_bytes(elements: Mapping[str, int]) -> int:
    """The bytes of an archive of NumPy's with an array of float32, of so many elements, under each name.

    An array has a header of 128 bytes, and its name stands twice in the archive, with 50 and 46 bytes beside it.
    """
    return 22 + sum(4 * count + 128 + 50 + 46 + 2 * len(f"{name}.npy") for name, count in elements.items())


def data(run: Run) -> Iterator[Result]:
    """Train on 6,400 and 51,200 images with and without, and find the images that give the same accuracy without."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.measurements(factors(scores), ["data_factor"])
    yield from bench.findings(scores, f"{AUGREG} = {VIT}: top1")
    yield heat_map(scores)


def few_images(run: Run) -> Iterator[Result]:
    """At 6,400 images, each seen eight times: both, augmentation alone, regularisation alone."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from inference.findings(
        scores,
        f"{AUGREG} > {SOME_PLAIN}: top1",
        f"{AUGMENTED} > {SOME_PLAIN}: top1",
        f"{REGULARISED} > {SOME_PLAIN}: top1",
        f"{AUGREG} > {SOME_PLAIN}: corruption_top1",
        floor=bench.floor(_some),
    )


def many_images(run: Run) -> Iterator[Result]:
    """At 51,200 images, each seen once."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{VIT} > {ALL_AUGREG}: top1", f"{ALL_AUGREG} > {VIT}: corruption_top1")


def factors(scores: Scores) -> Scores:
    """``data_factor`` of what is added at 6,400 images, by seed.

    The accuracy of the plain network is taken to be linear in the logarithm of its images between those tried, and
    not to fall with them. What is better than with all or worse than with few has the factor of these.
    """
    counts = (FEW, SOME, MANY)
    plain = np.maximum.accumulate([scores.per_seed(name_of(VIT, count), "top1") for count in counts])
    values = {}
    for name in (AUGMENTED, REGULARISED, AUGREG):
        for place, (seed, reached) in enumerate(zip(scores.seeds, scores.per_seed(name, "top1"), strict=True)):
            images = np.exp(np.interp(reached, plain[:, place], np.log(counts)))
            values[name, seed] = {"data_factor": np.asarray(images / SOME)}
    return Scores(values)


def heat_map(scores: Scores) -> Picture:
    """Accuracy by augmentation and regularisation, a panel for each number of images; what was not trained is empty."""
    panels = {SOME: [[SOME_PLAIN, REGULARISED], [AUGMENTED, AUGREG]], MANY: [[VIT, ""], ["", ALL_AUGREG]]}
    with figures.figure("grid", width=5.6, height=2.9) as drawn:
        axes = drawn.subplots(1, 2, sharey=True)
        for axis, (count, names) in zip(axes, panels.items(), strict=True):
            values = np.array([[scores.mean(name, "top1") if name else np.nan for name in row] for row in names])
            axis.imshow(values - values[0, 0], cmap="RdBu", vmin=-3, vmax=3)
            for (row, column), value in np.ndenumerate(values):
                if np.isfinite(value):
                    axis.text(column, row, f"{value:.1f}", ha="center", va="center", color="black")
            axis.set_xticks([0, 1], ["without", "with"])
            axis.set_yticks([0, 1], ["without", "with"])
            axis.set_xlabel("regularisation")
            axis.set_title(f"{count:,} images")
        axes[0].set_ylabel("augmentation")
        svg = figures.to_svg(drawn)
    return Picture(
        name="grid",
        caption=(
            "Top-1 accuracy by augmentation and regularisation, mean over seeds; blue is better than without either, "
            "red worse, and full colour is three points."
        ),
        svg=svg,
    )
