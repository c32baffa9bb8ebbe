"""``./reproduce.sh compare SLUG ...``: small models of several papers side by side on the same embedded budget."""

from __future__ import annotations

import importlib
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import papers
from common import figures
from common.declaration import Claim, Paper
from common.errors import UserError
from common.measurement import Measurement, Picture, Result
from common.profiling import count
from common.progress import console
from common.robustness import embedded
from common.robustness.embedded import Contender
from common.run import Run
from common.training.hooks import Hook
from common.training.recipe import Recipe, load_recipe
from papers._commands.reproduce import add_embedded_arguments, command_to_go_on, embedded_settings, open_run

#: What a method may change of the common recipe: how images and labels are made. All else is the budget.
OF_A_METHOD = (
    *("train_crop", "crop_scale", "crop_ratio", "crop_padding", "horizontal_flip", "color_jitter", "auto_augment"),
    *("random_erasing", "random_erasing_mode", "random_erasing_count", "mixup", "cutmix", "mix_probability"),
    *("mix_switch_probability", "mix_mode", "label_smoothing"),
)
#: What the numbers are drawn as, a figure a title.
FIGURES = {
    "Accuracy on clean, corrupted and occluded images": ("top1", "corruption_top1", "occlusion_top1"),
    "Accuracy under attack": ("fgsm_top1", "pgd_eps4_top1", "pgd_top1"),
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the papers and the budget."""
    parser.epilog = (
        "All models are trained by the embedded recipe of the paper that is named first; each keeps its own method.\n"
        "What moved between two runs is shown by ./reproduce.sh compare-runs OLD NEW.\n"
        "Exit status: 0 measured; 2 could not be measured; 130 interrupted."
    )
    parser.add_argument("slugs", nargs="+", metavar="SLUG", help="papers, the one whose budget counts first")
    add_embedded_arguments(parser)


def run(args: Namespace) -> int:
    """Train and measure all models alike, and report."""
    from results import comparison

    chosen = _papers(args.slugs)
    for paper in chosen:
        small_models(paper, args.quick)
    settings = embedded_settings(args)
    declared = declaration(chosen, budget(chosen[0], quick=args.quick, epochs=args.epochs))
    measured = open_run(declared, settings, declared.claims, args)
    try:
        measured.execute()
    except KeyboardInterrupt:
        command = command_to_go_on(args.words, measured.folder)
        console.print(f"Stopped. What was measured is kept; go on with\n  {command}", highlight=False, soft_wrap=True)
        return 130
    return comparison.write(measured)


def small_models(paper: Paper, quick: bool) -> list[Contender]:
    """The paper's small models, called ``SLUG/NAME``, ready for the embedded recipe of any paper.

    ``small_models()`` in the paper's ``claims.py`` returns them as contenders of its own embedded recipe. Their hooks
    get the common recipe with the ``method`` table of their own.

    Raises:
        UserError: the paper offers none, or one of them changes what is part of the budget.
    """
    offered = _offered(paper)
    if offered is None:
        others = [slug for slug, other in papers.all_papers().items() if _offered(other) is not None]
        raise UserError(f"{paper.slug} offers no small models to compare; {', '.join(others)} do.")
    return [_adapted(paper, contender, quick) for contender in offered]


def _offered(paper: Paper) -> Sequence[Contender] | None:
    make = getattr(importlib.import_module(f"{paper.package}.claims"), "small_models", None)
    return None if make is None else make()


def _adapted(paper: Paper, contender: Contender, quick: bool) -> Contender:
    of_method = tuple(change for change in contender.changes if change.startswith("method."))
    others = tuple(change for change in contender.changes if change not in of_method)
    for change in others:
        if change.partition("=")[0] not in OF_A_METHOD:
            raise UserError(f"{paper.slug}: the small model {contender.name} changes {change}, a part of the budget.")
    hooks = partial(_with_own_method, contender.hooks, paper.recipe, of_method, quick)
    return replace(contender, name=f"{paper.slug}/{contender.name}", hooks=hooks, changes=others)


def _with_own_method(
    make: Callable[[Recipe], Sequence[Hook]], path: Path, changes: tuple[str, ...], quick: bool, recipe: Recipe
) -> Sequence[Hook]:
    """The hooks of a contender, from the common recipe with the method of its own paper."""
    own = load_recipe(path, "embedded", quick=quick, changes=changes)
    return make(replace(recipe, method=own.method))


def budget(paper: Paper, *, quick: bool, epochs: int | None) -> str:
    """What every model gets, one sentence.

    Raises:
        UserError: the paper's recipe has no setting ``embedded`` of the shared kind.
    """
    if paper.recipe_type:
        raise UserError(f"{paper.slug} has no embedded budget for classifiers; name another paper first.")
    recipe = load_recipe(paper.recipe, "embedded", quick=quick)
    epochs = epochs or recipe.epochs
    return (
        f"Every model gets the budget of {paper.slug}, its recipe's setting embedded{' (quick)' if quick else ''}: "
        f"{epochs} epoch{'' if epochs == 1 else 's'} of {recipe.epoch_images:,} images in batches of "
        f"{recipe.total_batch}, {recipe.optimizer} with learning rate {recipe.learning_rate:g}. Images, their order "
        "and the random draws of corruptions and attacks are the same for all."
    )


def declaration(chosen: Sequence[Paper], summary: str) -> Paper:
    """The comparison as something to run: one claim, about the papers in ``builds_on``."""
    slugs = tuple(paper.slug for paper in chosen)
    title = " and ".join(filter(None, (", ".join(slugs[:-1]), slugs[-1]))) + " side by side"
    return Paper(
        slug="-".join(("compare", *slugs)),
        title=title,
        authors=(),
        venue="",
        year=0,
        kind="analysis",
        summary=summary,
        bibtex="",
        claims=(
            Claim(
                name="side_by_side",
                statement=f"Small models: {title} at equal budget.",
                kind="ordering",
                needs=("embedded",),
                measured_by=f"{__name__}:side_by_side",
            ),
        ),
        builds_on=slugs,
    )


def side_by_side(run: Run) -> Iterator[Result]:
    """Size, then accuracy of every model of the papers that the run's declaration names."""
    chosen = [papers.find(slug) for slug in run.paper.builds_on]
    contenders = [contender for paper in chosen for contender in small_models(paper, run.settings.quick)]
    for contender in contenders:
        for measurement in count(contender.build().eval(), contender.name, (3, 28, 28)):
            # Models this small are told of in thousands and millions.
            smaller = {"M": "k", "G": "M"}[measurement.unit]
            yield replace(measurement, value=1000 * measurement.value, unit=smaller)
    table = embedded.compare(run, contenders, chosen[0].recipe)
    measured = list(embedded.measurements(table, run.settings.quick))
    yield from measured
    for number, (title, metrics) in enumerate(FIGURES.items(), start=1):
        yield _picture(f"side_by_side_{number}", title, metrics, measured)
    yield embedded.corruption_picture("corruptions", table)


def _picture(name: str, title: str, metrics: Sequence[str], measured: Sequence[Measurement]) -> Picture:
    panels = {metric: {m.model: _bar(m) for m in measured if m.metric == metric} for metric in metrics}
    seeds = measured[0].seeds
    bars = f"bars are 95 % intervals over {seeds} seeds, cut at 0 and 100" if seeds > 1 else "one seed, no interval"
    return Picture(
        name=name,
        caption=f"{title}, in per cent; {bars}.",
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
