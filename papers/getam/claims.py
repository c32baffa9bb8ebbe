"""How GETAM's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from common import bench, figures
from common.bench import inference, scenes
from common.measurement import Finding, Picture, Result
from common.run import Run
from common.training.preparation import Preparation
from common.training.recipe import load_recipe
from papers.getam import pascal_voc as voc
from papers.getam.experiment import (
    CAM,
    READINGS,
    Segmenter,
    image_labels,
    known_of,
    maps_of,
    measure_maps,
    measure_segmentation,
    segmented,
    single_stage,
)
from papers.getam.method import class_activation, class_maps
from papers.getam.training import SingleStage, labels_for

RECIPE = Path(__file__).with_name("recipe.toml")
GETAM = "getam_mini"
UNCOMPLETED, CLASSIFIER, RESNET = f"{GETAM}.uncompleted", f"{GETAM}.classifier", "resnet_mini.scenes"
#: The largest relative difference that rounding explains.
ROUNDING = 1e-4

_measurements = partial(inference.measurements, dataset=scenes.DATASET, protocol=f"{bench.PROTOCOL}, {scenes.PROTOCOL}")


def contenders() -> list[bench.Contender]:
    """Single-stage training with and without completion, and classifiers of scenes: the same network, and a CNN."""
    here = partial(bench.Contender, recipe=RECIPE, data=scenes.training_data)
    return [
        here(GETAM, Segmenter, single_stage),
        here(UNCOMPLETED, Segmenter, single_stage, ("method.cut=0.0",)),
        here(CLASSIFIER, Segmenter, image_labels),
        here(RESNET, bench.hosts.resnet_mini, image_labels),
    ]


def activation(run: Run) -> Iterator[Result]:
    """Maps of one classifier, read in several ways, as segmentations; and those of a CNN."""
    _, _, vit, resnet = contenders()
    of_vit = bench.scores(run, [vit], measure_maps)
    of_resnet = bench.scores(run, [resnet], measure_maps)
    values = {
        (f"{name}.{reading}", seed): {"map_miou": scores.values[name, seed][f"map_miou/{reading}"]}
        for name, scores, readings in ((CLASSIFIER, of_vit, [*READINGS, CAM]), (RESNET, of_resnet, [CAM]))
        for reading in readings
        for seed in scores.seeds
    }
    scores = bench.Scores(values)
    for each in (of_vit, of_resnet):
        yield from _measurements(each, ("top1",))
    yield from _measurements(scores, ("map_miou",))
    others = [CAM, *(reading for reading in READINGS if reading != "getam")]
    yield from inference.findings(
        scores,
        *(f"{CLASSIFIER}.getam > {CLASSIFIER}.{other}: map_miou" for other in others),
        f"{CLASSIFIER}.getam > {RESNET}.{CAM}: map_miou",
    )
    yield maps_picture(run, bench.trained(run, vit, run.seeds()[0]))


def completion(run: Run) -> Iterator[Result]:
    """Segmentation networks that were trained with completed and with plain pseudo labels."""
    completed, plain, *_ = contenders()
    scores = bench.scores(run, [completed, plain], measure_segmentation)
    yield from _measurements(scores, scores.metrics)
    yield from inference.findings(scores, *(f"{GETAM} > {UNCOMPLETED}: {metric}" for metric in ("miou", "label_miou")))
    yield labels_picture(run, bench.trained(run, completed, run.seeds()[0]))


def elementwise(run: Run) -> Iterator[Result]:
    """A small network of random weights in float64: what GETAM's map depends on."""
    torch.manual_seed(run.settings.seed)
    model = Segmenter().double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    images = torch.randn(3, 3, 28, 28, dtype=torch.float64)
    present = torch.zeros(3, 10, dtype=torch.bool)
    present[torch.tensor([0, 0, 1, 2]), torch.tensor([1, 4, 4, 7])] = True
    read = {True: class_activation, False: READINGS["attention_gradient"]}
    plain = {square: class_maps(model, images, present, read[square]) for square in read}
    with torch.no_grad():
        model.head.weight *= 3  # and with it the gradient of every logit
    larger = {square: class_maps(model, images, present, read[square]) for square in read}
    with torch.no_grad():
        model.head.weight /= 3
    off = max(distance(larger[True], 9 * plain[True]), distance(larger[False], 3 * plain[False]))
    yield _exact(
        "squared",
        "The map grows with the square of the gradient, and without the square in proportion to it.",
        off,
        f"With a gradient three times as large the maps are 9 and 3 times as large, to {off:.1e}",
    )
    alone = torch.cat([class_maps(model, images[i : i + 1], present[i : i + 1]) for i in range(3)])
    yield _exact(
        "one_pass_for_all",
        "One backward pass for a class of every image gives the maps that a pass for each image gives.",
        distance(plain[True], alone),
        f"The largest relative difference is {distance(plain[True], alone):.1e}",
    )
    own = gradients(model, images, present, with_maps=False)
    beside = gradients(model, images, present, with_maps=True)
    changed = max(distance(a, b) for a, b in zip(own, beside, strict=True))
    yield _exact(
        "double_backward",
        "Going backwards for the maps leaves no trace in the gradients of the weights.",
        changed,
        f"The largest relative change of a weight's gradient is {changed:.1e}",
    )


def gradients(model: nn.Module, images: Tensor, present: Tensor, *, with_maps: bool) -> list[Tensor]:
    """Gradients of the weights by a classification loss, after maps have been made in the same step or not."""
    model.zero_grad()
    if with_maps:
        class_maps(model, images, present)
    nn.functional.multilabel_soft_margin_loss(model(images), present.to(images)).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def distance(ours: Tensor, other: Tensor) -> float:
    """The largest difference over the largest magnitude."""
    return float((ours - other).abs().max() / other.abs().max().clamp(min=1e-300))


def _exact(name: str, statement: str, off: float, evidence: str) -> Finding:
    return Finding.exactly(
        name=name,
        statement=statement,
        holds=off < ROUNDING,
        evidence=f"{evidence} (bound {ROUNDING:g}).",
        value=off,
    )


def maps_picture(run: Run, model: nn.Module, shown: int = 6) -> Picture:
    """Scenes with one map a class, by reading: the publication's figure of maps."""
    recipe = load_recipe(RECIPE, "embedded", quick=run.settings.quick)
    some = scenes.test_scenes(run.settings.quick)[slice(0, shown)]
    images = Preparation(recipe, next(model.parameters()).device).normalise(some.images)
    rows = {"scene": some.images[:, 0].float() / 255}
    for reading in (*READINGS, CAM):
        maps = maps_of(model, images, some.classes(), reading).cpu()
        rows[reading.replace("_", "\n")] = maps[torch.arange(shown), some.largest()]
    return Picture(
        name="maps",
        caption="Test scenes, and the map of the class of most pixels as each reading of the same classifier gives it.",
        svg=_grid("maps", rows),
    )


def labels_picture(run: Run, model: nn.Module, shown: int = 6) -> Picture:
    """Scenes, what is salient, pseudo labels, and what the network makes of them."""
    assert isinstance(model, Segmenter)
    recipe = load_recipe(RECIPE, "embedded", quick=run.settings.quick)
    some = scenes.test_scenes(run.settings.quick)[slice(0, shown)]
    images = Preparation(recipe, next(model.parameters()).device).normalise(some.images)
    present, salient = known_of(some)
    labels, _ = labels_for(model, images, present, salient, SingleStage(recipe).settings)
    rows = {
        "scene": some.images[:, 0].float() / 255,
        "salient": salient.float(),
        "pseudo label": labels.clamp(max=scenes.SEMANTIC) / scenes.SEMANTIC,
        "segmented": segmented(model, images) / scenes.SEMANTIC,
        "truth": some.semantic / scenes.SEMANTIC,
    }
    return Picture(
        name="labels",
        caption=(
            "Test scenes; the garment that saliency sees; the pseudo labels, completed, white where left open; "
            "the trained network's segmentation; the truth. Classes are grey values."
        ),
        svg=_grid("labels", rows),
    )


def _grid(name: str, rows: dict[str, Tensor]) -> str:
    count = len(next(iter(rows.values())))
    shown = {label: pictures.cpu() for label, pictures in rows.items()}
    return figures.pictures(name, shown, width=1.0 * count + 0.5, height=1.0 * len(rows), limits=(0, 1))


def pascal_voc(run: Run) -> Iterator[Result]:
    """The user's checkpoint on PASCAL VOC's validation pictures, at three sizes."""
    yield from voc.measure(run)
