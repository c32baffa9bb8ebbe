"""``./reproduce.sh compare SLUG ...``: what several papers train on the bench, side by side."""

from __future__ import annotations

import importlib
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import papers
from common import bench, figures
from common.declaration import Claim, Paper
from common.errors import UserError
from common.measurement import Measurement, Picture, Result
from common.profiling import count
from common.progress import console
from common.protocols import OffersContenders
from common.run import Run
from papers._commands.reproduce import add_embedded_arguments, command_to_go_on, embedded_settings, open_run

#: What the numbers are drawn as, a figure a title.
FIGURES = {
    "Accuracy on clean, corrupted and occluded images": ("top1", "corruption_top1", "occlusion_top1"),
    "Accuracy under attack": ("fgsm_top1", "pgd_eps4_top1", "pgd_top1"),
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the papers and the budget."""
    parser.epilog = (
        "All models are trained by the bench's recipe; each keeps its own method. What several papers train alike is\n"
        "trained once. What moved between two runs is shown by ./reproduce.sh compare-runs OLD NEW.\n"
        "Exit status: 0 measured; 2 could not be measured; 130 interrupted."
    )
    parser.add_argument("slugs", nargs="+", metavar="SLUG", help="papers whose contenders are compared")
    add_embedded_arguments(parser)


def run(args: Namespace) -> int:
    """Train and measure all models alike, and report."""
    from results import comparison

    chosen = _papers(args.slugs)
    of_papers(chosen)  # before anything is trained
    settings = embedded_settings(args)
    declared = declaration(chosen, quick=args.quick, epochs=args.epochs)
    measured = open_run(declared, settings, declared.claims, args)
    try:
        measured.execute()
    except KeyboardInterrupt:
        command = command_to_go_on(args.words, measured.folder)
        console.print(f"Stopped. What was measured is kept; go on with\n  {command}", highlight=False, soft_wrap=True)
        return 130
    return comparison.write(measured)


def contenders(paper: Paper) -> list[bench.Contender]:
    """All that ``paper`` trains on the bench: what ``contenders()`` in its ``claims.py`` returns; none without it."""
    claims = importlib.import_module(f"{paper.package}.claims")
    return claims.contenders() if isinstance(claims, OffersContenders) else []


def of_papers(chosen: Sequence[Paper]) -> list[bench.Contender]:
    """The contenders of several papers, each once.

    Raises:
        UserError: one of the papers trains nothing on the bench.
    """
    found: dict[str, bench.Contender] = {}
    for paper in chosen:
        own = contenders(paper)
        if not own:
            others = [slug for slug, other in papers.all_papers().items() if contenders(other)]
            raise UserError(f"{paper.slug} trains nothing on the bench that could be compared; {', '.join(others)} do.")
        for contender in own:
            found.setdefault(contender.name, contender)
    return list(found.values())


def declaration(chosen: Sequence[Paper], *, quick: bool, epochs: int | None) -> Paper:
    """The comparison as something to run: one claim, about the papers in ``builds_on``."""
    slugs = tuple(paper.slug for paper in chosen)
    title = " and ".join(filter(None, (", ".join(slugs[:-1]), slugs[-1]))) + " side by side"
    recipe = bench.host("vit_mini").settings(quick=quick, epochs=epochs)
    return Paper(
        slug="-".join(("compare", *slugs)),
        title=title,
        authors=(),
        venue="",
        year=0,
        kind="analysis",
        summary=(
            f"Every model gets the bench's budget{' (quick)' if quick else ''}: {recipe.epochs} "
            f"epoch{'' if recipe.epochs == 1 else 's'} of {recipe.epoch_images:,} images in batches of "
            f"{recipe.total_batch}, {recipe.optimizer} with learning rate {recipe.learning_rate:g}. Images, their "
            "order and the random draws of corruptions and attacks are the same for all."
        ),
        bibtex="",
        claims=(
            Claim(
                name="side_by_side",
                statement=f"Small models: {title} at equal budget.",
                needs=("embedded",),
                measured_by=f"{__name__}:side_by_side",
            ),
        ),
        builds_on=slugs,
    )


def side_by_side(run: Run) -> Iterator[Result]:
    """Size, then accuracy of every model of the papers that the run's declaration names, beside what is no network."""
    chosen = of_papers([papers.find(slug) for slug in run.paper.builds_on])
    for contender in chosen:
        for measurement in count(contender.build().eval(), contender.name, (3, 28, 28)):
            # Models this small are told of in thousands and millions.
            smaller = {"M": "k", "G": "M"}[measurement.unit]
            yield replace(measurement, value=1000 * measurement.value, unit=smaller)
    scores = bench.scores(run, chosen, bench.robustness)
    measured = list(bench.measurements(scores, bench.ROBUSTNESS))
    yield from measured
    yield from bench.without_network(run.settings.quick)
    for number, (title, metrics) in enumerate(FIGURES.items(), start=1):
        yield _picture(f"side_by_side_{number}", title, metrics, measured)
    yield bench.corruption_picture("corruptions", scores)


def _picture(name: str, title: str, metrics: Sequence[str], measured: Sequence[Measurement]) -> Picture:
    panels = {metric: {m.model: _bar(m) for m in measured if m.metric == metric} for metric in metrics}
    seeds = measured[0].seeds
    over = f"over {seeds} seeds and images" if seeds > 1 else "over images, of a single training"
    return Picture(
        name=name,
        caption=f"{title}, in per cent; bars are 95 % intervals {over}, cut at 0 and 100.",
        svg=figures.intervals(name, panels, xlabel="top-1 accuracy, %"),
    )


def _bar(measured: Measurement) -> tuple[float, float, float]:
    """Value and ends of its bar, within what an accuracy can be."""
    low, high = measured.interval or (measured.value, measured.value)
    return measured.value, max(low, 0.0), min(high, 100.0)


def _papers(words: Sequence[str]) -> list[Paper]:
    for word in words:
        if word not in papers.all_papers() and (Path(word).exists() or os.sep in word or word.endswith(".csv")):
            raise UserError(
                f"{word} is no paper: compare puts models of papers side by side, and ./reproduce.sh compare-runs "
                "OLD NEW compares two runs."
            )
    twice = [word for word in words if words.count(word) > 1]
    if twice:
        raise UserError(f"{twice[0]} is named twice.")
    return [papers.find(word) for word in words]
