"""How DeiT's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from timm.models.deit import VisionTransformerDistilled

from common import bench, figures
from common.bench import Contender, Scores, hosts
from common.measurement import Picture, Result
from common.run import Run
from papers.deit import heads

#: The ConvNet that teaches, trained like its students; and the ViT that has no teacher.
TEACHER, PLAIN = bench.host("resnet_mini"), bench.host("vit_mini")
_OF = f"distillation_teacher={TEACHER.name}"
_SOFT = ("distillation=soft", "distillation_alpha=0.1", "distillation_temperature=3.0", _OF)
_HARD = ("distillation=hard", "distillation_alpha=0.5", _OF)
_two_tokens = partial(hosts.vit_mini, kind=VisionTransformerDistilled)

SOFT = Contender("vit_mini.soft", hosts.vit_mini, changes=_SOFT, teacher=TEACHER)
HARD = Contender("vit_mini.hard", hosts.vit_mini, changes=_HARD, teacher=TEACHER)
TOKEN = Contender("vit_mini.token", _two_tokens, changes=_HARD, teacher=TEACHER)
#: The control: as many tokens and heads, no teacher.
CONTROL = Contender("vit_mini.two_class_tokens", _two_tokens, hooks=heads.second_class_token)
#: Blocks of the ViT.
DEPTH = 3


def contenders() -> list[Contender]:
    """All that is trained."""
    return [PLAIN, TEACHER, SOFT, HARD, TOKEN, CONTROL]


def distillation(run: Run) -> Iterator[Result]:
    """Train a small ViT without a teacher, by soft and by hard distillation, and by hard distillation of a token."""
    bench.scores(run, [PLAIN, TEACHER], bench.robustness)  # first, so that no student has to wait for its teacher
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores,
        "vit_mini.token > vit_mini: top1",
        "vit_mini.hard > vit_mini.soft: top1",
        "vit_mini.token > vit_mini.hard: top1",
        "vit_mini.token > vit_mini.two_class_tokens: top1",
        "vit_mini.token > vit_mini: corruption_top1",
    )
    yield bench.difference_picture("distillation", scores, PLAIN.name)


def inductive_bias(run: Run) -> Iterator[Result]:
    """On how many test images the teacher, a student and a ViT without a teacher decide alike (as in Table 4)."""
    labels = bench.test_set(run.settings.quick).labels.numpy()
    values: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for seed in run.seeds():
        taught = _decisions(run, TEACHER, seed)["both"]
        students = {PLAIN.name: _decisions(run, PLAIN, seed)["both"]}
        students |= _by_classifier(_decisions(run, TOKEN, seed))
        for name, decided in students.items():
            values[name, seed] = {"top1": decided == labels, "teacher_agreement": decided == taught}
    scores = Scores(values)
    yield from bench.measurements(scores, ["teacher_agreement"])
    yield from bench.findings(
        scores,
        "vit_mini.token > vit_mini: teacher_agreement",
        "vit_mini.token.distillation > vit_mini.token.class: teacher_agreement",
    )


def joint_classifier(run: Run) -> Iterator[Result]:
    """Classify with each head of the distilled ViT and with both: the mean of logits, or the sum of softmax outputs."""
    scores = bench.scores(run, [TOKEN], heads.measure)
    by_classifier = Scores(
        {
            (name, seed): {"top1": array}
            for seed in scores.seeds
            for name, array in _by_classifier(
                {one: scores.values[TOKEN.name, seed][f"top1/{one}"] for one in heads.CLASSIFIERS}
            ).items()
        }
    )
    yield from bench.measurements(by_classifier)
    yield from bench.findings(
        by_classifier,
        "vit_mini.token > vit_mini.token.class: top1",
        "vit_mini.token > vit_mini.token.distillation: top1",
        "vit_mini.token.softmax = vit_mini.token: top1",
    )


def tokens(run: Run) -> Iterator[Result]:
    """The cosine of the two tokens by depth, where the second learns from a teacher and where it learns the labels."""
    scores = bench.scores(run, [TOKEN, CONTROL], heads.measure)
    by_depth = Scores(
        {
            (f"{name}.depth_{depth}", seed): {"top1": own["top1"], "token_cosine": own[f"token_cosine/{depth}"]}
            for (name, seed), own in scores.values.items()
            for depth in range(DEPTH + 1)
        }
    )
    yield from bench.measurements(by_depth, ["token_cosine"])
    yield from bench.findings(
        by_depth,
        "vit_mini.token.depth_3 > vit_mini.token.depth_0: token_cosine",
        "vit_mini.two_class_tokens.depth_3 > vit_mini.token.depth_3: token_cosine",
    )
    yield _cosine_picture(by_depth)


def _decisions(run: Run, contender: Contender, seed: int) -> dict[str, np.ndarray]:
    model = bench.trained(run, contender, seed)
    return heads.decisions(model, contender.settings(quick=run.settings.quick), run.settings.quick)


def _by_classifier(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values by classifier as those of contenders; both heads together, as released, are the network itself."""
    return {TOKEN.name if one == "both" else f"{TOKEN.name}.{one}": value for one, value in values.items()}


def _cosine_picture(scores: Scores) -> Picture:
    """A line a network over depth, and a thin one each seed."""
    depths: Sequence[int] = range(DEPTH + 1)
    with figures.figure("cosine", width=4.6, height=3.0) as drawn:
        axis = drawn.subplots()
        for position, (name, label) in enumerate(((TOKEN.name, "teacher"), (CONTROL.name, "labels"))):
            by_seed = np.array([scores.per_seed(f"{name}.depth_{depth}", "token_cosine") for depth in depths])
            colour = figures.COLOURS[position]
            axis.plot(depths, by_seed, color=colour, linewidth=0.6, alpha=0.6)
            axis.plot(depths, by_seed.mean(axis=1), "o-", color=colour, markersize=4, label=f"second token: {label}")
        axis.set_xticks(depths, ["learned", *(f"block {depth}" for depth in depths[1:])])
        axis.set_ylabel("cosine of the two tokens")
        axis.grid()
        axis.legend()
        svg = figures.to_svg(drawn)
    return Picture(
        name="cosine",
        caption=(
            "Cosine of the class token and the second token as learned and after each block, mean over test images; a "
            "thin line is one seed."
        ),
        svg=svg,
    )
