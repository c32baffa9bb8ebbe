"""How ViT's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from common import bench, figures
from common.bench import Scores, hosts, inference
from common.measurement import Measurement, Picture, Result
from common.profiling import size
from common.run import Run
from papers.vit import grid as grids
from papers.vit import inside

VIT, CONVNET = "vit_mini", "resnet_mini"
#: Training images; the largest is what the hosts are trained on, and all are seen equally often in total.
FEW, SOME, MANY = 1280, 6400, 51200


def model_size(name: str) -> Iterator[Measurement]:
    """The size of a network with a classifier of 1,000 classes, which timm's ViT-H/14 lacks by default."""
    yield from size.model_size(name, num_classes=1000)


def name_of(host: str, count: int) -> str:
    """The contender that is ``host`` trained on ``count`` images."""
    return host if count == MANY else f"{host}.images_{count}"


def contenders() -> list[bench.Contender]:
    """The bench's vision transformer and ConvNet, trained on all images and on fewer."""
    few = [
        bench.Contender(name_of(host, count), getattr(hosts, host), data=partial(bench.few_training_images, count))
        for host in (VIT, CONVNET)
        for count in (SOME, FEW)
    ]
    return [bench.host(VIT), bench.host(CONVNET), *few]


def data(run: Run) -> Iterator[Result]:
    """Train both on 1,280, 6,400 and 51,200 images, 51,200 times an image each, and compare their accuracy."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    lead = leads(scores)
    yield from bench.measurements(lead, ["convnet_lead"])
    floor = bench.floor(partial(bench.few_training_images, FEW))
    yield from inference.findings(
        lead,
        f"images_{MANY} > images_{FEW}: convnet_lead",
        f"images_{MANY} > images_{SOME}: convnet_lead",
        floor=floor,
    )
    yield data_picture(scores)


def leads(scores: Scores) -> Scores:
    """``convnet_lead`` by number of images, from the accuracy of both networks; ``top1`` is that of the ViT."""
    values = {}
    for count in (FEW, SOME, MANY):
        for seed in scores.seeds:
            vit, convnet = (scores.values[name_of(host, count), seed]["top1"] for host in (VIT, CONVNET))
            values[f"images_{count}", seed] = {"top1": vit, "convnet_lead": convnet.astype(float) - vit}
    return Scores(values)


def positions(run: Run) -> Iterator[Result]:
    """Correlate the similarity of position embeddings with the nearness of their patches, before and after training."""
    host = bench.host(VIT)
    scores = bench.scores(run, [host], inside.measure)
    values: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for seed in scores.seeds:
        own = scores.values[VIT, seed]
        torch.manual_seed(seed)
        at_start = inside.nearness(host.build())
        # The accuracy says whether the network has learnt, of which both rows are a part.
        values[VIT, seed] = {"top1": own["top1"], "position_nearness": own["position_nearness"]}
        values[f"{VIT}.start", seed] = {"top1": own["top1"], "position_nearness": np.asarray(at_start)}
    by_time = Scores(values)
    yield from bench.measurements(by_time, ["position_nearness"])
    yield from bench.findings(by_time, f"{VIT} > {VIT}.start: position_nearness")
    first = scores.seeds[0]
    yield inside.position_picture(bench.trained(run, host, first), first)


def attention_distance(run: Run) -> Iterator[Result]:
    """How far the patches that a patch attends to are, by block."""
    scores = bench.scores(run, [bench.host(VIT)], inside.measure)
    by_head = inside.heads_of(scores, VIT)
    values = {
        (f"{VIT}.block_{block}", seed): {
            "top1": scores.values[VIT, seed]["top1"],
            "attention_distance": scores.values[VIT, seed][f"attention_distance/{block}"],
        }
        for seed in scores.seeds
        for block in range(1, len(by_head) + 1)
    }
    by_block = Scores(values)
    yield from bench.measurements(by_block, ["attention_distance"])
    yield from bench.findings(by_block, f"{VIT}.block_3 > {VIT}.block_1: attention_distance")
    yield inside.distance_picture(by_head)


def resolution(run: Run) -> Iterator[Result]:
    """Test at 56 pixels what was trained at 28, with positions resized as a grid, as a sequence, or all the same."""
    scores = bench.scores(run, [bench.host(VIT)], grids.measure)
    by_form = Scores(
        {
            (f"{VIT}.{form}", seed): {
                "top1": scores.values[VIT, seed]["top1"],
                "double_size_top1": scores.values[VIT, seed][f"double_size_top1/{form}"],
            }
            for seed in scores.seeds
            for form in grids.FORMS
        }
    )
    yield from bench.measurements(by_form, ["double_size_top1"])
    yield from bench.findings(
        by_form,
        f"{VIT}.grid > {VIT}.mean_position: double_size_top1",
        f"{VIT}.grid > {VIT}.sequence: double_size_top1",
    )


def grid(run: Run) -> Iterator[Result]:
    """Permute patches."""
    yield grids.permutation()


def data_picture(scores: Scores) -> Picture:
    """Accuracy over the number of training images, a line a network and a thin one each seed."""
    counts = [FEW, SOME, MANY]
    with figures.figure("data", width=4.6, height=3.2) as drawn:
        axis = drawn.subplots()
        for colour, host in zip(figures.COLOURS, (VIT, CONVNET), strict=False):
            lines = [scores.per_seed(name_of(host, count), "top1") for count in counts]
            axis.plot(counts, lines, color=colour, linewidth=0.5, alpha=0.5)
            means = [sum(values) / len(values) for values in lines]
            axis.plot(counts, means, "o-", color=colour, markersize=4, label=host)
        axis.set_xscale("log")
        axis.set_xticks(counts, [f"{count:,}" for count in counts])
        axis.minorticks_off()
        axis.set_xlabel("training images")
        axis.set_ylabel("top-1 accuracy, %")
        axis.grid(axis="y")
        axis.legend()
        svg = figures.to_svg(drawn)
    return Picture(
        name="data",
        caption="Accuracy over the number of training images at equal budget; a thin line is one seed.",
        svg=svg,
    )
