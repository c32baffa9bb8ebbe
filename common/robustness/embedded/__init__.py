"""The embedded experiment: small models trained at equal budget on Fashion-MNIST, then measured for robustness.

It stands in for training and evaluation at full scale where neither ImageNet nor a GPU is at hand. Every contender
sees the same images in the same order for the same number of steps, with several seeds; every model is measured on
the same test images with the same random draws, so that differences between contenders are paired.

Numbers from here are never compared with printed ImageNet numbers.
"""

from common.robustness.embedded.calibration import CALIBRATION_METRICS, compare_calibration, measure_calibration
from common.robustness.embedded.experiment import Contender, table_of, trained
from common.robustness.embedded.images import DATASET, SEVERITIES, TestSet, test_set, training_data
from common.robustness.embedded.results import (
    ROBUSTNESS_METRICS,
    corruption_picture,
    difference_finding,
    difference_picture,
    differences,
    measurements,
    more_robust,
)
from common.robustness.embedded.robustness import METRICS, compare, measure

__all__ = [
    "CALIBRATION_METRICS",
    "DATASET",
    "METRICS",
    "ROBUSTNESS_METRICS",
    "SEVERITIES",
    "Contender",
    "TestSet",
    "compare",
    "compare_calibration",
    "corruption_picture",
    "difference_finding",
    "difference_picture",
    "differences",
    "measure",
    "measure_calibration",
    "measurements",
    "more_robust",
    "table_of",
    "test_set",
    "trained",
    "training_data",
]
