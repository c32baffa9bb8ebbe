"""The test sets: disjoint balanced subsets, cells that everyone shares, files that are made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common import bench
from common.bench import images, stored
from common.data.fashion_mnist import load_fashion_mnist
from common.robustness.corruptions import corrupt


def test_subsets_are_balanced_and_cover_every_test_image_once() -> None:
    tests = bench.test_set(quick=False)
    assert tests.clean.shape == (20, 500, 3, 28, 28)
    assert all((labels.bincount() == 50).all() for labels in tests.labels)
    flat = tests.clean[:, :, 0].flatten(0, 1).flatten(1).long()
    every = load_fashion_mnist().test_images.flatten(1).long()
    weights = torch.arange(1, 785)
    assert torch.equal((flat * weights).sum(1).sort().values, (every * weights).sum(1).sort().values)


def test_the_images_of_a_quick_run_are_the_first_of_each_subset_and_balanced_too() -> None:
    whole, quick = bench.test_set(quick=False), bench.test_set(quick=True)
    assert torch.equal(quick.corrupted, whole.corrupted[:, : images.QUICK_IMAGES])
    assert all((labels.bincount() == images.QUICK_IMAGES // 10).all() for labels in quick.labels)


def test_a_cell_is_its_subset_corrupted_with_a_seed_by_image() -> None:
    tests = bench.test_set(quick=False)
    cell = bench.CORRUPTION_CELLS.index(("gaussian_noise", 3)) + 30  # another one, whose subset is that of cell 31 % 20
    name, severity = bench.CORRUPTION_CELLS[cell]
    subset = cell % bench.SUBSETS
    expected = corrupt(tests.clean[subset, 7:8], name, severity, seeds=[500 * subset + 7])
    assert torch.equal(tests.corrupted[cell, 7:8], expected)
    assert torch.equal(tests.labels_of(45)[cell], tests.labels[subset])


def test_training_never_sees_a_test_image() -> None:
    data, whole = bench.training_data(), load_fashion_mnist()
    assert len(data.train[0]) + len(data.validation[0]) == len(whole.train_images)
    assert torch.equal(data.validation[0][:, 0], whole.train_images[-images.VALIDATION :])


def test_few_training_images_are_the_first_of_all_again_and_again() -> None:
    few, every = bench.few_training_images(100), bench.training_data()
    assert len(few.train[0]) >= len(every.train[0])
    assert torch.equal(few.train[0][:100], every.train[0][:100])
    assert torch.equal(few.train[0][-100:], every.train[0][:100])
    assert torch.equal(few.train[1][100:200], every.train[1][:100])
    assert torch.equal(few.validation[0], every.validation[0])


def test_what_is_stored_and_damaged_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []

    def make(share: int) -> torch.Tensor:
        made.append(share)
        return torch.full((2, 3), share, dtype=torch.uint8)

    monkeypatch.setattr(stored, "data_folder", lambda: tmp_path)
    monkeypatch.setattr(stored, "side_by_side", lambda make, shares, what: map(make, shares))
    first = stored.stored("tiny", "1", make, 2).clone()
    assert torch.equal(stored.stored("tiny", "1", make, 2), first)
    assert made == [0, 1]
    (path,) = (tmp_path / "bench").iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x80
    path.write_bytes(content)
    assert torch.equal(stored.stored("tiny", "1", make, 2), first)
    assert made == [0, 1, 0, 1]
    assert "is damaged; it is made anew" in " ".join(capsys.readouterr().err.split())
