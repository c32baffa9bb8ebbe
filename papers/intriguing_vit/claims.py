"""How the claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from common import bench
from common.bench import inference
from common.bench.hosts import PATCH, SIDE
from common.measurement import Finding, Result
from common.robustness.evaluation import Execution, evaluate
from common.robustness.full_scale_measures import load_model
from common.robustness.occlusion import shuffle_tiles
from common.run import Run
from papers.intriguing_vit import objects, pictures
from papers.intriguing_vit import pascal_voc as voc
from papers.intriguing_vit.experiment import CURVES, GRID, all_conditions, measure, textured_garments
from papers.intriguing_vit.model import create

VIT, RESNET, SHAPED, UNTRAINED = "vit_mini", "resnet_mini", "vit_mini+shape", "vit_mini.untrained"
#: The largest difference of logits, over their largest magnitude, that rounding explains.
ROUNDING = 1e-4
#: Everything taken for the object.
WHOLE = "whole_canvas"
#: The file in --dino DIR.
DINO_FILE = "dino_deitsmall16_pretrain.pth"


def contenders() -> list[bench.Contender]:
    """Two hosts, and the transformer trained for shape, and as it is before training."""
    still = ("learning_rate=0.0", "warmup_learning_rate=0.0", "min_learning_rate=0.0", "epoch_images=128")
    return [
        bench.host(VIT),
        bench.host(RESNET),
        bench.Contender(SHAPED, bench.hosts.vit_mini, data=textured_garments),
        bench.Contender(UNTRAINED, bench.hosts.vit_mini, changes=still),
    ]


def permutation_invariance(run: Run) -> Iterator[Result]:
    """Logits of untrained networks for images and for the same images with shuffled patches."""
    torch.manual_seed(run.settings.seed)
    generator = torch.Generator().manual_seed(run.settings.seed)
    images = torch.rand(4, 3, SIDE, SIDE, generator=generator)
    # A network of patches that do not overlap, as the publication's; the bench's stem of convolutions sees beyond them.
    small: dict[str, Any] = {
        "img_size": SIDE,
        "patch_size": PATCH,
        "num_classes": 10,
        "embed_dim": 48,
        "depth": 3,
        "num_heads": 3,
    }

    def change(position: bool, tiles: int) -> float:
        model = create("deit_tiny_no_position_patch16_224", **small, pos_embed="learn" if position else "none").eval()
        with torch.inference_mode():
            whole, shuffled = model(images), model(shuffle_tiles(images, grid=tiles, seeds=range(4)))
        return float((whole - shuffled).abs().max() / whole.abs().max())

    without = change(False, GRID)
    yield Finding.exactly(
        name="same_logits",
        statement="Without position embedding, logits are the same when the network's own patches are shuffled.",
        holds=without < ROUNDING,
        evidence=f"The largest relative change of a logit is {without:.1e} (bound {ROUNDING:g}).",
        value=without,
    )
    for name, statement, position, tiles in (
        ("position", "With position embedding, logits change when the network's own patches are shuffled.", True, GRID),
        (
            "within_patches",
            "Without position embedding, logits change when tiles within the patches are shuffled, too.",
            False,
            2 * GRID,
        ),
    ):
        changed = change(position, tiles)
        yield Finding.exactly(
            name=name,
            statement=statement,
            holds=changed > ROUNDING,
            evidence=f"The largest relative change of a logit is {changed:.1e} (bound {ROUNDING:g}).",
            value=changed,
        )


def occlusion(run: Run) -> Iterator[Result]:
    """Accuracy with random, salient and non-salient patches dropped."""
    scores, kinds = _scores(run, VIT, RESNET), CURVES[:3]
    yield from bench.measurements(scores, ("top1", *kinds))
    yield from bench.findings(scores, *(f"{VIT} > {RESNET}: {kind}" for kind in kinds))
    yield pictures.occlusion_picture(scores)
    yield pictures.examples_picture(bench.test_set(run.settings.quick).clean[0], all_conditions())


def shuffling(run: Run) -> Iterator[Result]:
    """Accuracy with tiles shuffled, by grid size."""
    scores = _scores(run, VIT, RESNET)
    yield from bench.measurements(scores, ("shuffle_top1",))
    yield from bench.findings(scores, f"{VIT} > {RESNET}: shuffle_top1")
    yield pictures.shuffling_picture(scores)


def shape(run: Run) -> Iterator[Result]:
    """Decisions on silhouettes of one garment with the texture of another, and on either cue alone."""
    scores = _scores(run, VIT, RESNET, SHAPED)
    # Of a network that tells textures no better than chance, 10 %, a shape bias would say nothing: hence texture_top1.
    metrics = ("shape_bias", "shape_share", "texture_share", "silhouette_top1", "texture_top1")
    yield from bench.measurements(scores, metrics)
    yield from bench.findings(scores, f"{VIT} > {RESNET}: shape_bias")
    yield pictures.conflict_picture(run.settings.quick)


def shape_training(run: Run) -> Iterator[Result]:
    """Decisions of the transformer that was trained on garments with textures of others."""
    scores = _scores(run, VIT, RESNET, SHAPED)
    yield from bench.findings(scores, f"{SHAPED} > {VIT}: shape_bias", f"{SHAPED} > {VIT}: silhouette_top1")


def segmentation(run: Run) -> Iterator[Result]:
    """Jaccard index of attention with garments: trained, trained for shape, untrained, and of the whole canvas."""
    measured = bench.scores(run, _named(VIT, SHAPED, UNTRAINED), objects.measure)
    scores = bench.Scores({key: measured.values[key] for key in measured.values if key[0] != UNTRAINED})
    whole = {
        (WHOLE, seed): {**values, "jaccard": values["jaccard/whole"]}
        for (name, seed), values in measured.values.items()
        if name == VIT
    }
    with_whole = bench.Scores({**scores.values, **whole})
    for one in bench.measurements(bench.Scores({**measured.values, **whole}), ("jaccard",)):
        yield replace(one, dataset=objects.DATASET, protocol=f"{bench.PROTOCOL}, {objects.PROTOCOL}")
    yield from bench.findings(with_whole, f"{VIT} > {WHOLE}: jaccard", f"{SHAPED} > {VIT}: jaccard")
    # A network before training is no classifier, which the bench would ask of it.
    yield from inference.findings(measured, f"{VIT} > {UNTRAINED}: jaccard")
    yield pictures.shares_picture(measured)
    (contender,) = _named(VIT)
    model = bench.trained(run, contender, run.seeds()[0])
    recipe = contender.settings(quick=run.settings.quick, epochs=run.settings.epochs)
    yield pictures.objects_picture(model, recipe, run.settings.quick)


def _named(*names: str) -> list[bench.Contender]:
    return [contender for contender in contenders() if contender.name in names]


def _scores(run: Run, *names: str) -> bench.Scores:
    """Networks that are trained and measured once for all claims."""
    return bench.scores(run, _named(*names), measure)


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
        execution=Execution.of(run.settings),
        output=run.folder / "evaluation",
        **options,
    )
    yield from measured
    yield pictures.measured_picture(name, measured)


def pascal_voc(run: Run) -> Iterator[Result]:
    """The user's checkpoint on PASCAL VOC's validation pictures at 512 pixels."""
    yield from voc.measure(run)
