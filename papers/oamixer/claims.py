"""How OAMixer's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator

from common import bench
from common.measurement import Result
from common.run import Run
from papers.oamixer import identities, mini, pictures, scenes
from papers.oamixer.mini import AWARE, CONVMIXER, MIXER, VIT


def contenders() -> list[bench.Contender]:
    """A transformer, a mixer and a ConvMixer on garments in scenes, each without the mask and with it."""
    return mini.contenders()


def background_robustness(run: Run) -> Iterator[Result]:
    """Train the small transformer without the mask and with it; compare accuracy in scenes of all sorts."""
    both = [each for each in contenders() if each.name.startswith(VIT)]
    scores = bench.scores(run, both, scenes.robustness)
    yield from bench.inference.measurements(scores, scenes.METRICS, dataset=scenes.DATASET, protocol=scenes.PROTOCOL)
    yield from bench.findings(scores, f"{VIT}{AWARE} > {VIT}: {scenes.RAND}", f"{VIT}{AWARE} > {VIT}: {scenes.GAP}")
    yield bench.difference_picture("background_robustness", scores, VIT, scenes.METRICS)
    yield pictures.backgrounds(run, both)


def accuracy(run: Run) -> Iterator[Result]:
    """The same networks in scenes as they were trained in."""
    both = [each for each in contenders() if each.name.startswith(VIT)]
    scores = bench.scores(run, both, scenes.robustness)
    yield from bench.findings(scores, f"{VIT}{AWARE} > {VIT}: top1")


def other_mixers(run: Run) -> Iterator[Result]:
    """The same for networks that mix patches by an MLP and by convolutions."""
    others = [each for each in contenders() if not each.name.startswith(VIT)]
    scores = bench.scores(run, others, scenes.robustness)
    yield from bench.inference.measurements(scores, scenes.METRICS, dataset=scenes.DATASET, protocol=scenes.PROTOCOL)
    yield from bench.findings(
        scores,
        *(f"{host}{AWARE} > {host}: {metric}" for host in (MIXER, CONVMIXER) for metric in (scenes.RAND, scenes.GAP)),
    )


def one_object(run: Run) -> Iterator[Result]:
    """Networks whose patches all show one object, against their hosts."""
    yield from identities.one_object()


def separation(run: Run) -> Iterator[Result]:
    """What reaches patches of another object."""
    yield from identities.separation()
