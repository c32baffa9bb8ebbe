"""The bench: one place where small models are trained far enough to be good, alike, and compared on the same images.

A paper says what it changes (an attention, a layer, a loss, an augmentation, a step) and which finding is primary;
hosts, recipe, budget, test sets, statistics and verdicts are the bench's. A comparison in a paper's ``claims.py`` is

    def contenders() -> list[bench.Contender]:
        return [bench.host("vit_mini"), bench.Contender("vit_mini+x", partial(bench.hosts.vit_mini, attention=X))]

    def accuracy_with_x(run: Run) -> Iterator[Result]:
        scores = bench.scores(run, contenders(), bench.robustness)
        yield from bench.measurements(scores)
        yield from bench.findings(scores, "vit_mini+x > vit_mini: top1", "vit_mini+x > vit_mini: corruption_top1")
        yield bench.difference_picture("x", scores, "vit_mini")

and its declaration names the primary finding: ``primary="vit_mini+x > vit_mini: top1"``. ``contenders()`` is found by
that name: ``./reproduce.sh compare`` puts them beside those of other papers, and their first losses are kept as traces.
Numbers from here are never compared with numbers on ImageNet.
"""

from common.bench import hosts
from common.bench.contenders import RECIPE, Contender, Measure, host, scores, train_share, trained
from common.bench.few_images import few_training_images
from common.bench.floor import CHANCE, floor, logistic_regression, without_network
from common.bench.images import (
    CORRUPTION_CELLS,
    DATASET,
    OCCLUSION_SHARES,
    SEVERITIES,
    TestSet,
    test_set,
    training_data,
)
from common.bench.inference import difference
from common.bench.long_attacks import LONG_ATTACKS, under_long_attacks
from common.bench.measures import (
    CALIBRATION,
    ROBUSTNESS,
    accuracy,
    calibration,
    correct,
    correct_under_attack,
    normalised,
    per_channel,
    robustness,
)
from common.bench.results import PROTOCOL, corruption_picture, difference_picture, findings, measurements
from common.bench.scores import SUBSETS, Scores
from common.bench.trace import first_losses, traces_path

__all__ = [
    "CALIBRATION",
    "CHANCE",
    "CORRUPTION_CELLS",
    "DATASET",
    "LONG_ATTACKS",
    "OCCLUSION_SHARES",
    "PROTOCOL",
    "RECIPE",
    "ROBUSTNESS",
    "SEVERITIES",
    "SUBSETS",
    "Contender",
    "Measure",
    "Scores",
    "TestSet",
    "accuracy",
    "calibration",
    "correct",
    "correct_under_attack",
    "corruption_picture",
    "difference",
    "difference_picture",
    "few_training_images",
    "findings",
    "first_losses",
    "floor",
    "host",
    "hosts",
    "logistic_regression",
    "measurements",
    "normalised",
    "per_channel",
    "robustness",
    "scores",
    "test_set",
    "traces_path",
    "train_share",
    "trained",
    "training_data",
    "under_long_attacks",
    "without_network",
]
