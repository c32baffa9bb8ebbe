"""Full-scale evaluation on CIFAR, on stand-ins of a few images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

import papers
from common.checkpoints import to_released
from common.data.cifar import load_cifar
from common.errors import UserError
from common.measurement import Measurement
from common.robustness import cifar
from common.robustness.corruptions import CORRUPTIONS
from common.robustness.metrics.calibration import adaptive_calibration_error, corruption_calibration_error
from common.robustness.prediction import predict
from common.run import Run, Settings

#: Images of a severity: calibration asks for two bins of 100 over the five of a corruption.
COUNT = 40


@pytest.fixture(scope="module")
def corrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10-C with the same images under every corruption; at severity s they are s levels brighter."""
    folder = tmp_path_factory.mktemp("cifar-10-c")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 200, (COUNT, 32, 32, 3), dtype=np.uint8)
    stacked = np.concatenate([images + severity for severity in range(1, 6)]).astype(np.uint8)
    for name in CORRUPTIONS:
        np.save(folder / f"{name}.npy", stacked)
    np.save(folder / "labels.npy", np.tile(generator.integers(0, 10, COUNT), 5).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "released.pt"
    torch.save({"state_dict": to_released(timm.create_model("densenet40_cifar", num_classes=10))}, path)
    return path


def run(folder: Path, weights: Path, limit: int | None = None, **folders: Path) -> Run:
    data = {name.replace("_", "-"): path for name, path in folders.items()}
    return Run(papers.find("augmix"), Settings(checkpoint=weights, folders=data, limit=limit, batch_size=100), folder)


def by_metric(measured: list[Measurement]) -> dict[str, Measurement]:
    return {m.metric: m for m in measured}


def test_a_severity_is_its_part_of_the_arrays(corrupted: Path) -> None:
    low, labels = cifar.read_cell(corrupted, "fog", 1)
    high, same = cifar.read_cell(corrupted, "fog", 5)
    assert low.shape == (COUNT, 3, 32, 32)
    assert low.dtype == torch.uint8
    assert torch.equal(high, low + 4)
    assert torch.equal(labels, same)


def test_corrupted_set_is_measured(
    corrupted: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar, "CORRUPTIONS", ("fog", "snow"))
    measured = by_metric(list(cifar.cifar_10_c(run(tmp_path, weights, cifar_10_c=corrupted))))
    assert {m.model for m in measured.values()} == {"densenet40_cifar"}, "found by the checkpoint's shapes"
    top1, error = measured["corruption_top1"], measured["corruption_error"]
    assert top1.value + error.value == pytest.approx(100)
    assert top1.detail["errors"].keys() == {"fog", "snow"}
    assert np.mean(top1.detail["errors"]["fog"]) == pytest.approx(error.value)
    assert 0 < measured["corruption_rms_calibration_error"].value < 100
    assert all(m.weights == "released" and m.dataset == "cifar-10-c" for m in measured.values())


def test_clean_set_is_measured(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8)

    def stand_in(name: str, root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
        assert (name, train) == ("torch/cifar10", False)
        return images, torch.arange(300) % 10

    monkeypatch.setattr(cifar, "load_cifar", stand_in)
    measured = by_metric(list(cifar.cifar_10(run(tmp_path, weights, limit=250, cifar_10=tmp_path))))
    assert measured["top1"].n == 250
    assert measured["top1"].interval[0] < measured["top1"].value < measured["top1"].interval[1]


@pytest.mark.parametrize("broken", ["missing", "shape", "labels"])
def test_what_is_not_the_data_set_is_refused(broken: str, corrupted: Path, tmp_path: Path) -> None:
    for name in ("fog", "labels"):
        np.save(tmp_path / f"{name}.npy", np.load(corrupted / f"{name}.npy"))
    if broken == "missing":
        (tmp_path / "fog.npy").unlink()
    elif broken == "shape":
        np.save(tmp_path / "fog.npy", np.zeros((5 * COUNT, 3, 32, 32), np.uint8))
    else:
        np.save(tmp_path / "labels.npy", np.zeros(7, np.uint8))
    with pytest.raises(UserError, match=r"fog"):
        cifar.read_cell(tmp_path, "fog", 1)


def test_missing_cifar_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--download"):
        load_cifar("torch/cifar10", tmp_path, train=True)
    with pytest.raises(UserError, match="torch/cifar100"):
        load_cifar("torch/cifar1000", tmp_path, train=True)


def test_predictions_are_confidence_and_correctness() -> None:
    class Bright(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            level = x.mean(dim=(1, 2, 3)) * self.scale
            return torch.stack([level, -level], dim=1)

    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    confidence, correct = predict(Bright(), images, torch.tensor([0, 0]), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert correct.tolist() == [0, 1]
    assert confidence == pytest.approx([1 / (1 + np.exp(-2))] * 2)


def test_calibration_under_corruption_is_a_mean_over_corruptions() -> None:
    generator = np.random.default_rng(0)
    cells = {
        (name, s): (generator.uniform(0.1, 1, 100), generator.integers(0, 2, 100)) for name in "ab" for s in (1, 2, 3)
    }

    def of(name: str) -> float:
        parts = [cells[name, s] for s in (1, 2, 3)]
        return adaptive_calibration_error(*(np.concatenate(x) for x in zip(*parts, strict=True)), last_bin=True)

    assert corruption_calibration_error(cells) == pytest.approx((of("a") + of("b")) / 2)
