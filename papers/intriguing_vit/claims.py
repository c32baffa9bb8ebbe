"""How the claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from common import figures
from common.measurement import Finding, Measurement, Picture, Result
from common.profiling.counting import flops, parameters
from common.robustness import embedded
from common.robustness.embedded.experiment import recipe_for
from common.robustness.evaluation import evaluate
from common.robustness.full_scale_measures import load_model
from common.robustness.occlusion import shuffle_tiles
from common.run import Run
from common.statistics import mean_interval, paired_interval
from papers.intriguing_vit import objects, results
from papers.intriguing_vit import pascal_voc as voc
from papers.intriguing_vit.experiment import (
    CURVES,
    DATASET,
    PATCH,
    RESNET,
    SIDE,
    VIT,
    all_conditions,
    contenders,
    measure,
    test_canvases,
    training_canvases,
    vit,
    with_kept,
)

RECIPE = Path(__file__).with_name("recipe.toml")
#: The largest difference of logits, over their largest magnitude, that rounding explains.
ROUNDING = 1e-4
#: How far the budgets of the two networks may be apart.
EQUAL = 0.1
#: The file in --dino DIR.
DINO_FILE = "dino_deitsmall16_pretrain.pth"


def small_models() -> list[embedded.Contender]:
    """What ``./reproduce.sh compare`` puts beside the models of other papers."""
    return contenders()


def permutation_invariance(run: Run) -> Iterator[Result]:
    """Logits of untrained networks for images and for the same images with shuffled patches."""
    torch.manual_seed(run.settings.seed)
    generator = torch.Generator().manual_seed(run.settings.seed)
    images = torch.rand(4, 3, SIDE, SIDE, generator=generator)
    grid = SIDE // PATCH

    def change(position: bool, tiles: int) -> float:
        model = vit(position=position).eval()
        with torch.inference_mode():
            whole, shuffled = model(images), model(shuffle_tiles(images, grid=tiles, seeds=range(4)))
        return float((whole - shuffled).abs().max() / whole.abs().max())

    without = change(False, grid)
    yield Finding(
        statement="Without position embedding, logits are the same when the network's own patches are shuffled.",
        verdict="holds" if without < ROUNDING else "does not hold",
        evidence=f"The largest relative change of a logit is {without:.1e} (bound {ROUNDING:g}).",
        value=without,
        exact=True,
    )
    for statement, position, tiles in (
        ("With position embedding, logits change when the network's own patches are shuffled.", True, grid),
        ("Without position embedding, logits change when tiles within the patches are shuffled, too.", False, 2 * grid),
    ):
        changed = change(position, tiles)
        yield Finding(
            statement=statement,
            verdict="holds" if changed > ROUNDING else "does not hold",
            evidence=f"The largest relative change of a logit is {changed:.1e} (bound {ROUNDING:g}).",
            value=changed,
            exact=True,
        )


def _table(run: Run) -> pd.DataFrame:
    """Both networks, trained and measured; the first claim that asks pays for all."""
    measuring = partial(measure, quick=run.settings.quick)
    return with_kept(embedded.table_of(run, contenders(), RECIPE, measuring, training_canvases))


def _count(run: Run) -> int:
    return len(test_canvases(run.settings.quick).images)


def occlusion(run: Run) -> Iterator[Result]:
    """Accuracy with random, salient and non-salient patches dropped."""
    yield from _budget()
    table, kinds = _table(run), CURVES[:3]
    yield from results.measurements(table, ("top1", *kinds, *(f"{kind}_kept" for kind in kinds)), _count(run))
    for kind in kinds:
        what = f"when {kind.partition('_')[0].replace('non', 'non-')} patches are dropped"
        yield from results.more(
            table,
            {
                f"{kind}_kept": f"keeps more of its accuracy above chance {what}, mean over shares,",
                kind: f"has a higher accuracy {what}, mean over shares,",
            },
        )
    yield results.occlusion_picture(table)
    yield results.examples_picture(test_canvases(run.settings.quick), all_conditions())


def shuffling(run: Run) -> Iterator[Result]:
    """Accuracy with tiles shuffled, by grid size."""
    table = _table(run)
    yield from results.measurements(table, ("shuffle_top1", "shuffle_top1_kept"), _count(run))
    yield from results.more(
        table,
        {
            "shuffle_top1_kept": "keeps more of its accuracy above chance when tiles are shuffled, mean over grids,",
            "shuffle_top1": "has a higher accuracy when tiles are shuffled, mean over grids,",
        },
    )
    yield results.shuffling_picture(table)


def shape(run: Run) -> Iterator[Result]:
    """Decisions on silhouettes of one garment with the texture of another, and on either cue alone."""
    table = _table(run)
    metrics = ("shape_bias", "shape_share", "texture_share", "silhouette_top1", "texture_top1")
    yield from results.measurements(table, metrics, _count(run))
    yield from results.more(table, {"shape_bias": "decides more by shape, of what it decides by shape or texture,"})
    for name in (VIT, RESNET):
        texture = list(table.loc[name]["texture_top1"])
        # Without a network that can tell textures, a shape bias would say nothing.
        yield embedded.difference_finding(
            f"{name} tells classes by texture alone better than by chance (10 %).",
            paired_interval(texture, [10.0] * len(texture)),
            len(texture),
        )
    yield results.conflict_picture(test_canvases(run.settings.quick))


def segmentation(run: Run) -> Iterator[Result]:
    """Jaccard index of attention with garments: trained, untrained, and of the whole canvas."""
    quick = run.settings.quick
    contender = contenders()[0]
    table = embedded.table_of(run, [contender], RECIPE, partial(objects.measure, quick=quick), training_canvases)
    trained, seeds = table.loc[VIT], run.seeds()

    def untrained(seed: int) -> dict[str, float]:
        torch.manual_seed(seed)
        recipe = recipe_for(run, RECIPE, contender)
        return objects.measure(contender.build().to(run.settings.device).eval(), recipe, quick)

    first = pd.DataFrame([untrained(seed) for seed in seeds])
    whole = objects.whole_canvas(quick)
    for name, scores in ((VIT, trained), (f"{VIT}.untrained", first)):
        estimate = mean_interval(list(scores["jaccard"]))
        yield Measurement(
            model=name,
            dataset=DATASET,
            metric="jaccard",
            value=estimate.value,
            unit="%",
            weights="trained" if name == VIT else "none",
            interval=estimate.interval,
            seeds=len(scores),
            n=_count(run),
            protocol=objects.PROTOCOL,
            detail={column: [float(value) for value in scores[column]] for column in map(str, scores)},
        )
    yield Measurement(
        model="whole-canvas", dataset=DATASET, metric="jaccard", value=whole, unit="%", n=_count(run),
        protocol=objects.PROTOCOL,
    )  # fmt: skip
    for what, other in (("before training", list(first["jaccard"])), ("of the whole canvas", [whole] * len(seeds))):
        yield embedded.difference_finding(
            f"The Jaccard index of {VIT}'s attention with garments is higher than {what}.",
            paired_interval(list(trained["jaccard"]), other),
            len(seeds),
        )
    yield Picture(
        name="shares",
        caption=(
            "Jaccard index of the best head against the share of attention that is kept, mean over seeds. The line is "
            "the whole canvas."
        ),
        svg=figures.curves(
            "shares",
            {
                **{
                    name: (objects.SHARES, [float(scores[f"jaccard/{share:g}"].mean()) for share in objects.SHARES])
                    for name, scores in ((VIT, trained), (f"{VIT}, untrained", first))
                },
                "whole canvas": (objects.SHARES, [whole] * len(objects.SHARES)),
            },
            xlabel="share of the attention that is kept",
            ylabel="Jaccard index, %",
        ),
    )
    model = embedded.trained(run, contender, seeds[0], RECIPE, training_canvases)
    recipe = recipe_for(run, RECIPE, contender)
    yield results.objects_picture(model, recipe, test_canvases(quick), float(trained["share"].iloc[0]) / 100)


def _budget() -> Iterator[Result]:
    """What is equal about the two networks."""
    counted = {}
    for contender in contenders():
        model = contender.build().eval()
        counted[contender.name] = parameters(model).total / 1e6, flops(model, (3, SIDE, SIDE)).total / 1e9
        for metric, unit, value in zip(("params", "flops"), ("M", "G"), counted[contender.name], strict=True):
            yield Measurement(
                model=contender.name, dataset="-", metric=metric, value=value, unit=unit, protocol=f"{metric}/1"
            )
    (params, operations), (others, theirs) = counted[VIT], counted[RESNET]
    apart = max(abs(others / params - 1), abs(theirs / operations - 1))
    yield Finding(
        statement=f"{RESNET} and {VIT} have as many parameters and multiply-adds, to within {100 * EQUAL:.0f} %.",
        verdict="holds" if apart <= EQUAL else "does not hold",
        evidence=(
            f"{1e3 * others:.1f} and {1e3 * params:.1f} thousand parameters, {1e3 * theirs:.2f} and "
            f"{1e3 * operations:.2f} million multiply-adds; images, steps and recipe are the same."
        ),
        value=apart,
        exact=True,
    )


def imagenet_occlusion(run: Run) -> Iterator[Result]:
    """The user's checkpoint with patches dropped and shuffled; salient patches, too, where DINO's weights are given."""
    model, name, weights = load_model(run)
    dino = run.settings.folders.get("dino")
    options: dict[str, Any] = {} if dino is None else {"saliency": dino / DINO_FILE}
    measured = evaluate(
        model,
        "imagenet-occlusion",
        run.settings.folders["imagenet"],
        model_name=name,
        weights=weights,
        device=run.settings.device,
        batch_size=run.settings.batch_size,
        workers=run.settings.workers,
        limit=run.settings.limit,
        output=run.folder / "evaluation",
        **options,
    )
    yield from measured
    yield results.measured_picture(name, measured)


def pascal_voc(run: Run) -> Iterator[Result]:
    """The user's checkpoint on PASCAL VOC's validation pictures at 512 pixels."""
    yield from voc.measure(run)
