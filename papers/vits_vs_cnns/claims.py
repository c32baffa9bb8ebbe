"""How the claims on transformers and CNNs are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from common import bench, figures
from common.bench import inference
from common.measurement import Finding, Measurement, Picture, Result
from common.robustness import full_scale_measures
from common.robustness.attacks import Pgd
from common.run import Run
from papers.vits_vs_cnns import experiment
from papers.vits_vs_cnns.experiment import hybrid_mini, resnet_gelu_mini
from papers.vits_vs_cnns.training import AdversarialSettings, hooks

RECIPE = Path(__file__).with_name("recipe.toml")
VIT, CNN, HYBRID = "vit_mini", "resnet_mini", "hybrid_mini"
ROBUST_VIT, ROBUST_CNN, ROBUST_GELU = "vit_mini+at", "resnet_mini+at", "resnet_mini.gelu+at"

#: Logistic regression that sees as many images as contenders whose every image is attacked.
_FLOOR = partial(bench.few_training_images, 25600)


def contenders() -> list[bench.Contender]:
    """Both hosts, trained plainly and adversarially; the CNN with GELU adversarially; the hybrid plainly."""
    vit, cnn = bench.hosts.vit_mini, bench.hosts.resnet_mini
    return [
        bench.host(VIT),
        bench.host(CNN),
        bench.Contender(ROBUST_VIT, vit, hooks, recipe=RECIPE),
        bench.Contender(ROBUST_CNN, cnn, hooks, recipe=RECIPE),
        bench.Contender(ROBUST_GELU, resnet_gelu_mini, hooks, recipe=RECIPE),
        bench.Contender(HYBRID, hybrid_mini),
    ]


def adversarial_robustness(run: Run) -> Iterator[Result]:
    """The transformer and the CNN with its activation under attack, after adversarial training."""
    scores = bench.scores(run, contenders(), experiment.measure)
    yield from bench.measurements(scores)
    yield from inference.findings(
        scores,
        *(f"{ROBUST_GELU} = {ROBUST_VIT}: {metric}" for metric in bench.LONG_ATTACKS),
        f"{ROBUST_VIT} > {VIT}: {bench.LONG_ATTACKS[0]}",
        floor=bench.floor(_FLOOR),
    )
    yield _trade(scores)


def activation(run: Run) -> Iterator[Result]:
    """The CNN with ReLU and with GELU under attack, after adversarial training."""
    scores = bench.scores(run, contenders(), experiment.measure)
    hypotheses = [f"{ROBUST_GELU} > {ROBUST_CNN}: {metric}" for metric in (*bench.LONG_ATTACKS, "top1")]
    yield from inference.findings(scores, *hypotheses, floor=bench.floor(_FLOOR))


def shifted_images(run: Run) -> Iterator[Result]:
    """Transformer and CNN under corruption, by one recipe, without adversarial training."""
    scores = bench.scores(run, contenders(), experiment.measure)
    yield from bench.findings(scores, f"{VIT} > {CNN}: corruption_top1", f"{VIT} > {CNN}: occlusion_top1")
    plain = [VIT, HYBRID, CNN]
    yield bench.corruption_picture("corruptions", _of(scores, plain))


def attention(run: Run) -> Iterator[Result]:
    """A CNN whose second half is attention, beside the CNN and the transformer."""
    scores = bench.scores(run, contenders(), experiment.measure)
    yield from bench.findings(scores, f"{HYBRID} > {CNN}: corruption_top1", f"{VIT} > {HYBRID}: corruption_top1")


def identity(run: Run) -> Iterator[Result]:
    """What is equal between the networks that are compared, and what the released draw does."""
    sizes = {name: _parameters(make()) for name, make in _NETWORKS.items()}
    ratio = max(sizes.values()) / min(sizes.values())
    listed = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    yield Finding.exactly(
        "size",
        "The small networks that are compared have as many parameters, within a tenth.",
        ratio < 1.1,
        f"{listed}: the largest has {ratio:.3f} of the smallest.",
        ratio,
    )
    relu, gelu = (_seeded(run, make) for make in (bench.hosts.resnet_mini, resnet_gelu_mini))
    weights = zip(relu.state_dict().items(), gelu.state_dict().items(), strict=True)
    same = all(a == b and torch.equal(x, y) for (a, x), (b, y) in weights)
    images = torch.rand(4, 3, 28, 28)
    change = float((relu(images) - gelu(images)).abs().max())
    yield Finding.exactly(
        "activation",
        "With the same seed the networks with ReLU and with GELU start from the same weights, bit for bit.",
        same and change > 0,
        f"All {len(relu.state_dict())} tensors are {'equal' if same else 'not equal'}; logits differ by up to "
        f"{change:.2f}.",
        change,
    )
    share = {draw: _share_from_noise(run, draw) for draw in ("uniform", "released")}
    yield Finding.exactly(
        "released_start",
        "Where a fifth of the passes are to start from the image, 58 % do as released.",
        abs(share["uniform"] - 0.8) < 0.01 and abs(share["released"] - 0.4207) < 0.01,
        f"From noise start {100 * share['uniform']:.1f} % of 20,000 uniform draws, and {100 * share['released']:.1f} % "
        "of the released ones.",
        share["released"],
    )
    attack = Pgd(epsilon=4 / 255, step=4 / 255, steps=1, random_start=True)
    grey = 0.2 + 0.6 * images  # so far from black and white that none is met
    labels = relu(grey).argmax(dim=1)
    classifier = bench.normalised(relu, contenders()[0].settings())
    moved = attack(classifier, grey, labels, generator=torch.Generator().manual_seed(0)) - grey
    largest = float(moved.abs().max() * 255)
    yield Finding.exactly(
        "epsilon",
        "A step of 4/255 from noise moves no pixel further than 4/255, and some so far.",
        abs(largest - 4) < 1e-3,
        f"The largest change is {largest:.4f}/255.",
        largest,
    )


def imagenet_c_19(run: Run) -> Iterator[Measurement]:
    """The user's checkpoint on ImageNet-C and its four extra corruptions, as accuracy and as the error of the paper."""
    for found in full_scale_measures.imagenet_c_19(run):
        yield found
        if found.metric == "corruption_top1_19":
            interval = found.interval and (100 - found.interval[1], 100 - found.interval[0])
            yield replace(found, metric="corruption_error_19", value=100 - found.value, interval=interval)


_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    VIT: bench.hosts.vit_mini,
    CNN: bench.hosts.resnet_mini,
    HYBRID: hybrid_mini,
}


def _parameters(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def _seeded(run: Run, make: Callable[..., nn.Module]) -> nn.Module:
    torch.manual_seed(run.settings.seed)
    return make().eval().requires_grad_(False)


def _share_from_noise(run: Run, draw: str) -> float:
    """Share of passes whose attack starts from noise, where 0.2 of them should start from the image."""
    settings = AdversarialSettings(4 / 255, 4 / 255, 1, 0.2, draw)
    torch.manual_seed(run.settings.seed)
    return sum(settings.from_noise() for _ in range(20_000)) / 20_000


def _of(scores: bench.Scores, names: list[str]) -> bench.Scores:
    """Some of the contenders."""
    return bench.Scores({(name, seed): scores.values[name, seed] for name in names for seed in scores.seeds})


def _trade(scores: bench.Scores) -> Picture:
    """Accuracy under attack over accuracy on clean images, a mark a seed and a line from plain to adversarial."""
    pairs = {VIT: (VIT, ROBUST_VIT), CNN: (CNN, ROBUST_CNN), f"{CNN}.gelu": (ROBUST_GELU,)}
    with figures.figure("trade", width=4.8, height=3.4) as drawn:
        axis = drawn.subplots()
        for place, (label, names) in enumerate(pairs.items()):
            colour = figures.COLOURS[place]
            means = [(scores.mean(name, "top1"), scores.mean(name, bench.LONG_ATTACKS[0])) for name in names]
            axis.plot(*zip(*means, strict=True), "o-", color=colour, markersize=5, linewidth=1, label=label)
            for name in names:
                axis.plot(
                    *(scores.per_seed(name, one) for one in ("top1", bench.LONG_ATTACKS[0])),
                    ".",
                    color=colour,
                    alpha=0.5,
                )
        axis.set_xlabel("top-1 on clean images, %")
        axis.set_ylabel("top-1 under PGD, 4/255, %")
        axis.grid()
        axis.legend()
        svg = figures.to_svg(drawn)
    return Picture(
        name="trade",
        caption=(
            "Accuracy under PGD over accuracy on clean images: trained plainly (left end of a line where there is one) "
            f"and adversarially. Large marks are means over {len(scores.seeds)} seeds, small ones single seeds."
        ),
        svg=svg,
    )
