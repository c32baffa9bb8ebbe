"""Robustness metrics: equal to the released evaluations on recorded examples, and sound where those say nothing."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.robustness.metrics import corruption, sequences
from common.robustness.metrics.calibration import adaptive_calibration_error, ece
from common.robustness.metrics.detection import detection
from common.robustness.metrics.shape import shape_bias

FIXTURES = Path(__file__).parent / "fixtures" / "robustness_metrics"


def notes(name: str) -> dict:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def test_alexnet_constants() -> None:
    reference = corruption.alexnet()
    assert list(reference["error"]) == notes("mce")["corruption_order"]
    for name, severities in reference["error_per_severity"].items():
        assert fmean(severities) == pytest.approx(reference["error"][name], abs=1e-9)
    # AlexNet relative to itself is 100 by definition.
    errors = reference["error_per_severity"]
    assert corruption.mce(errors) == pytest.approx(100)
    assert corruption.relative_mce(errors, reference["clean_error"]) == pytest.approx(100)


def test_corruption_errors_equal_recorded() -> None:
    example = notes("mce")["example"]
    errors, clean = example["errors"], example["clean_error"]
    assert corruption.corruption_errors(errors) == pytest.approx(example["CE"])
    assert corruption.mce(errors) == pytest.approx(example["mCE"])
    assert corruption.relative_corruption_errors(errors, clean) == pytest.approx(example["relative_CE"])
    assert corruption.relative_mce(errors, clean) == pytest.approx(example["relative_mCE"])
    assert corruption.mean_error(errors) == pytest.approx(example["unnormalized_mean_error_15"])
    # The extra corruptions are not part of mCE.
    assert corruption.mce({**errors, "saturate": [1.0] * 5}) == pytest.approx(example["mCE"])


def test_incomplete_mce_is_refused() -> None:
    errors = notes("mce")["example"]["errors"]
    with pytest.raises(UserError, match="fog is missing"):
        corruption.mce({k: v for k, v in errors.items() if k != "fog"})
    with pytest.raises(UserError, match="severities 1 to 5; fog has 4"):
        corruption.mce({**errors, "fog": [0.5] * 4})
    for value in (50.0, float("nan")):
        with pytest.raises(UserError, match=r"shares in \[0, 1\]"):
            corruption.mce({**errors, "fog": [value] * 5})
    with pytest.raises(UserError, match=r"the clean error is 23"):
        corruption.relative_mce(errors, 23)


@pytest.mark.parametrize("case", range(6))
def test_perturbation_metrics_equal_recorded(case: int) -> None:
    example, data = notes("imagenet_p_metrics")["examples"][case], arrays("imagenet_p_metrics")
    settings = {"noise": example["noise_perturbation"], "difficulty": example["difficulty"]}
    rank = sequences.ranks(torch.from_numpy(data["logits"]))
    assert torch.equal(rank, torch.from_numpy(data["ranks"].astype(np.int64)))
    predictions = torch.from_numpy(data["predictions"])
    assert sequences.flip_probability(predictions, **settings).mean().item() == pytest.approx(example["flip_prob"])
    assert sequences.top5_distance(rank, **settings).mean().item() == pytest.approx(example["top5_distance"])
    assert sequences.zipf_distance(rank, **settings).mean().item() == pytest.approx(example["zipf_distance"])


def test_mfr_equals_recorded_and_needs_all_perturbations() -> None:
    record = notes("imagenet_p_metrics")
    assert list(sequences.PERTURBATIONS) == record["perturbation_order"]
    assert list(sequences.EXTRA_PERTURBATIONS) == record["extra_perturbations"]
    worked = record["worked_mfr"]
    flip, reference = worked["flip_prob"], worked["alexnet_flip_prob_made_up"]
    assert sequences.mfr(flip, reference) == pytest.approx(worked["mFR"])
    assert sequences.mt5d(reference, reference) == pytest.approx(100)
    with pytest.raises(UserError, match="AlexNet has no value for tilt"):
        sequences.mfr(flip, {k: v for k, v in reference.items() if k != "tilt"})
    with pytest.raises(UserError, match=r"in \[0, 1\]; gaussian_noise has 23\.6"):
        sequences.mfr(flip, dict.fromkeys(reference, 23.6))
    for value in (0.0, float("nan")):
        with pytest.raises(UserError, match="above 0; tilt has"):
            sequences.mt5d(flip, {**reference, "tilt": value})
    with pytest.raises(UserError, match="five or more classes"):
        sequences.top5_distance(sequences.ranks(torch.rand(1, 4, 3)), noise=False)
    with pytest.raises(UserError, match="difficulty 9"):
        sequences.frame_pairs(9, noise=False, difficulty=9)


def test_constant_sequence_is_perfectly_stable() -> None:
    rank = sequences.ranks(torch.randn(1, 1, 50, generator=torch.Generator().manual_seed(0))).expand(2, 6, 50)
    for noise in (True, False):
        assert sequences.top5_distance(rank, noise=noise).sum() == 0
        assert sequences.zipf_distance(rank, noise=noise).sum() == 0


def test_calibration_equals_imagenet_a_release() -> None:
    results, data = notes("imagenet_a")["results"], arrays("imagenet_a")
    logits = torch.from_numpy(data["logits_200"].astype(np.float32))
    confidence, prediction = logits.double().softmax(1).max(1)
    correct = prediction == torch.from_numpy(data["labels"])
    assert correct.double().mean().item() == pytest.approx(results["accuracy"])
    assert adaptive_calibration_error(confidence, correct) == pytest.approx(results["rms_calibration_error"])
    for norm in ("mad", "max"):
        value = adaptive_calibration_error(confidence, correct, norm=norm)
        assert value == pytest.approx(results[f"{norm}_calibration_error"])
    small = adaptive_calibration_error(confidence, correct, bin_size=50)
    assert small == pytest.approx(results["rms_calibration_error_beta50"])


def test_calibration_equals_imagenet_r_release() -> None:
    results, data = notes("imagenet_r")["results"], arrays("imagenet_r")
    accuracy = {}
    for name in ("imagenet_200", "imagenet_r"):
        logits = torch.from_numpy(data[f"{name}_logits"].astype(np.float32))
        confidence, prediction = logits.double().softmax(1).max(1)
        correct = prediction == torch.from_numpy(data[f"{name}_labels"])
        accuracy[name] = correct.double().mean().item()
        assert accuracy[name] == pytest.approx(results[name]["accuracy"])
        value = adaptive_calibration_error(confidence, correct)
        assert value == pytest.approx(results[name]["rms_calibration_error"])
    assert accuracy["imagenet_200"] - accuracy["imagenet_r"] == pytest.approx(results["delta_accuracy"])


def test_calibration_equals_pixmix_release() -> None:
    results, data = notes("calibration")["results"], arrays("calibration")
    for norm in ("rms", "mad", "max"):
        value = adaptive_calibration_error(data["confidence"], data["correct"], norm=norm)
        assert value == pytest.approx(results[norm])


def test_last_bin_of_the_publication() -> None:
    """300 examples in 3 bins with gaps 0.1, 0.2, 0.3: the release leaves out the last, the definition does not."""
    confidence = np.repeat([0.4, 0.6, 0.8], 100)
    correct = np.concatenate([np.arange(100) < share for share in (50, 40, 50)]).astype(float)
    released = adaptive_calibration_error(confidence, correct, norm="mad")
    assert released == pytest.approx((0.1 + 0.2) / 3)
    assert adaptive_calibration_error(confidence, correct, norm="mad", last_bin=True) == pytest.approx(0.2)
    with pytest.raises(UserError, match="too few"):
        adaptive_calibration_error(confidence[:199], correct[:199])


def test_ece_known_answers() -> None:
    confidence = np.repeat([0.25, 0.75], 100)
    perfect = np.concatenate([np.arange(100) < 25, np.arange(100) < 75])
    assert ece(confidence, perfect) == pytest.approx(0, abs=1e-7)
    assert ece(confidence, np.zeros(200)) == pytest.approx(0.5)
    assert ece(np.ones(5), np.ones(5)) == 0
    # A confidence of 1 shares the last interval, and the upper end of an interval is in it.
    assert ece([0.95, 1.0], [1, 0]) == pytest.approx(0.475)
    assert ece([0.5, 0.3], [1, 0], bins=2) == pytest.approx(0.1)
    assert ece([0.0, 1.0], [0, 1]) == 0
    rng = np.random.default_rng(0)
    sure = rng.integers(0, 31, 500) / 30  # half of them on the ends of intervals
    right = rng.random(500) < sure
    inside = [(m / 15 < sure) & (sure <= (m + 1) / 15) | ((m == 0) & (sure == 0)) for m in range(15)]
    gaps = [abs(right[i].mean() - sure[i].mean()) * i.sum() / 500 for i in inside if i.any()]
    assert ece(sure, right) == pytest.approx(sum(gaps))
    for confidence_of_one in (3.0, float("nan")):
        with pytest.raises(UserError, match="softmax"):
            ece([confidence_of_one], [1])
    with pytest.raises(UserError, match="0 or 1 for each"):
        ece([0.5], [50])


def test_detection_equals_release() -> None:
    results, data = notes("imagenet_o")["results"], arrays("imagenet_o")
    found = detection(-data["confidence_out"], -data["confidence_in"])
    assert found._asdict() == pytest.approx(results)
    assert detection([2.0, 3.0], [0.0, 1.0]) == (1.0, 1.0, 0.0)
    assert detection([1.0, 1.0], [1.0, 1.0]) == (0.5, 0.5, 1.0)
    # 19 of 20 unknown ones have at least 2; at this recall the threshold is as low as it can be, as released.
    assert detection(np.arange(1, 21), [1.6, 1.5, 0.5, 0.2]).fpr95 == 0.5
    for unknown, known in (([], [1.0]), ([1.0], []), ([float("nan")], [1.0])):
        with pytest.raises(UserError, match="scores of both kinds, all of them numbers"):
            detection(unknown, known)


def test_shape_bias_equals_release() -> None:
    record = notes("shape_bias")
    found = shape_bias(record["response"], record["shape"], record["texture"])
    expected = (record["results"][f"fraction-correct-{kind}"] for kind in ("shape", "texture"))
    assert found == pytest.approx((*expected, record["results"]["shape-bias"]))
    with pytest.raises(UserError, match="undefined"):
        shape_bias(["cat"], ["dog"], ["car"])
