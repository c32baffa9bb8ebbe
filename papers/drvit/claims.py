"""How Dr. ViT's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from common import bench, figures
from common.measurement import Finding, Measurement, Picture, Result
from common.robustness.corruptions import CORRUPTIONS
from common.run import Run
from papers.drvit import invariance as exact
from papers.drvit import mini
from papers.drvit.mini import ALONE, BOTH, FEATURES, HOST


def contenders() -> list[bench.Contender]:
    """The bench's ViT on pixels, on code words, on both, and on pixels and features; see `papers.drvit.mini`."""
    return mini.contenders()


def _scores(run: Run) -> bench.Scores:
    mini.quantiser()  # trained here, once, and not by every process at the same time
    return bench.scores(run, contenders(), mini.measure)


def robustness(run: Run) -> Iterator[Result]:
    """Accuracy on clean, corrupted and occluded images."""
    scores = _scores(run)
    yield from bench.measurements(scores, ("top1", "corruption_top1", "occlusion_top1"))
    yield from bench.findings(
        scores,
        f"{BOTH} > {HOST}: corruption_top1",
        f"{BOTH} = {HOST}: top1",
        f"{BOTH} > {ALONE}: top1",
        f"{BOTH} > {FEATURES}: corruption_top1",
    )
    yield bench.corruption_picture("corruptions", scores)


def shape(run: Run) -> Iterator[Result]:
    """Decisions on silhouettes of one garment with the texture of another, and on either cue alone."""
    scores = _scores(run)
    yield from bench.measurements(
        scores, ("shape_bias", "shape_share", "texture_share", "silhouette_top1", "texture_top1")
    )
    yield from bench.findings(scores, f"{BOTH} > {HOST}: shape_bias", f"{ALONE} > {HOST}: shape_bias")


def positions(run: Run) -> Iterator[Result]:
    """Accuracy with the position embeddings of patches in another order."""
    scores = _scores(run)
    yield from bench.measurements(scores, ("shuffled_positions_top1", "position_reliance"))
    yield from bench.findings(scores, f"{BOTH} > {HOST}: position_reliance", f"{ALONE} > {HOST}: position_reliance")


def changed_tokens(run: Run) -> Iterator[Result]:
    """Which code words of the trained quantiser change under each corruption, and how far features moved."""
    found = mini.changed_tokens(run.settings.quick)
    shares = {key: float(changed.float().mean()) for key, (changed, _, _) in found.items()}
    for severity in bench.SEVERITIES:
        of_severity = [share for (_, each), share in shares.items() if each == severity]
        yield Measurement(
            model="drvit.quantiser",
            dataset=bench.DATASET,
            metric=f"changed_tokens/{severity}",
            value=100 * sum(of_severity) / len(of_severity),
            unit="%",
            protocol="changed_tokens/1 share of places whose code word is another, mean over corruptions",
            detail={f"{name}/{each}": share for (name, each), share in shares.items() if each == severity},
        )
    changed, moved, room = (torch.cat([values[part].flatten() for values in found.values()]) for part in range(3))
    within = moved < room
    # What a feature's move and its margin are off by where both are a rounding apart.
    broken = int((within & changed & (room - moved > 1e-5)).sum())
    yield Finding(
        name="kept",
        statement="No code word changes whose feature moved by less than its margin.",
        verdict="does not hold" if broken else "holds" if bool(within.any()) else "unclear",
        evidence=(
            f"{int(within.sum())} of {len(within)} features under corruption moved by less than their margin, and "
            f"{broken} of their words changed; of the others {100 * float(changed[~within].float().mean()):.0f} % did."
        ),
        value=float(broken),
        exact=True,
    )
    yield changed_picture(shares)


def invariance(run: Run) -> Iterator[Result]:
    """Move features within their margin and beyond."""
    yield from exact.margins(run.settings.seed)


def fusion(run: Run) -> Iterator[Result]:
    """Take fused tokens apart."""
    yield from exact.fused_tokens(run.settings.seed)


def changed_picture(shares: dict[tuple[str, int], float]) -> Picture:
    """Shares of changed code words, a group of bars a corruption."""
    with figures.figure("changed_tokens", width=8.0, height=3.0) as drawn:
        axis = drawn.subplots()
        width = 0.8 / len(bench.SEVERITIES)
        for place, severity in enumerate(bench.SEVERITIES):
            axis.bar(
                [i + (place - 1) * width for i in range(len(CORRUPTIONS))],
                [100 * shares[name, severity] for name in CORRUPTIONS],
                width,
                color=figures.COLOURS[place],
                label=f"severity {severity}",
            )
        axis.set_xticks(range(len(CORRUPTIONS)), [n.replace("_", " ") for n in CORRUPTIONS], rotation=60, ha="right")
        axis.set_ylabel("changed code words, %")
        axis.legend()
        svg = figures.to_svg(drawn)
    return Picture(
        name="changed_tokens",
        caption="Code words that are others under corruption, in per cent of all places of the test images.",
        svg=svg,
    )
