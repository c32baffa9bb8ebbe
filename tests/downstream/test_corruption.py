"""Corruptions in the pipelines, and the means over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import downstream  # noqa: F401  (before anything of OpenMMLab)
from common.errors import UserError
from common.robustness.corruptions import CORRUPTIONS, corrupt
from downstream.corruption import CorruptImage, cells, corrupt_pipeline, mean_performance, relative_performance


def _image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 70, 3), dtype=np.uint8)


def test_an_image_is_corrupted_as_anywhere_else_and_in_its_own_colours() -> None:
    results = CorruptImage("contrast", 3)({"img": _image(), "img_path": "a/b.jpg"})
    rgb = torch.from_numpy(_image()[..., ::-1].transpose(2, 0, 1).copy())[None]
    expected = corrupt(rgb, "contrast", 3, scale="imagenet")[0].numpy().transpose(1, 2, 0)[..., ::-1]
    np.testing.assert_array_equal(results["img"], expected)
    assert results["img"].flags["C_CONTIGUOUS"]


def test_what_happens_depends_on_the_file_alone() -> None:
    transform = CorruptImage("gaussian_noise", 2)
    first, again, other = (
        transform({"img": _image(), "img_path": path})["img"] for path in ("x/1.jpg", "y/1.jpg", "2.jpg")
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(("name", "severity", "problem"), [("fogg", 1, "fog"), ("fog", 6, "severity is 6")])
def test_unknown_corruptions_are_named(name: str, severity: int, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        CorruptImage(name, severity)


def test_the_corruption_follows_the_loading_of_the_image() -> None:
    steps = corrupt_pipeline([{"type": "LoadImageFromFile"}, {"type": "Resize"}], "fog", 1)
    assert [step["type"] for step in steps] == ["LoadImageFromFile", "CorruptImage", "Resize"]
    with pytest.raises(UserError, match="LoadImageFromFile"):
        corrupt_pipeline([{"type": "Resize"}], "fog", 1)


def test_the_sets_are_those_of_the_sources() -> None:
    assert len(list(cells("benchmark"))) == 75
    assert len(list(cells("fan_detection"))) == 16 * 5
    assert len(list(cells("fan_segmentation"))) == 19 * 3
    assert {name for name, _ in cells("benchmark")} == set(CORRUPTIONS)


def test_mean_and_relative_performance() -> None:
    performances = {f"{name}/{severity}": 10.0 * severity for name, severity in cells("benchmark")}
    assert mean_performance(performances, "benchmark") == 30.0
    assert relative_performance(30.0, 40.0) == 75.0
    del performances["fog/3"]
    with pytest.raises(UserError, match="fog/3"):
        mean_performance(performances, "benchmark")
    with pytest.raises(UserError, match="clean"):
        relative_performance(1.0, 0.0)
