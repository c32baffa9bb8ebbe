from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import timm

from common.profiling import flops
from common.shapes import shapes_only
from common.training.cost import A100, Machine, gpu_hours, passes
from common.training.hooks import ExtraPass, Hook

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_hours", ROOT / "tests" / "benchmarks" / "bench_hours.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_estimate_is_the_stated_arithmetic(recipe) -> None:
    chosen = recipe("plain")  # 3 epochs, batches of 8
    machine = Machine("slow", peak=1000.0, utilisation=0.5)
    hours = gpu_hours(chosen, 10.0, images=20, machine=machine)  # 16 images an epoch
    assert hours == pytest.approx(3 * 16 * 10 * 2 * 3 / 500 / 3600)
    assert gpu_hours(chosen, 10.0, images=20, machine=machine, hooks=[ExtraPass(abs)]) == pytest.approx(2 * hours)
    assert gpu_hours(recipe("plain", "epoch_images=8"), 10.0, machine=machine) == pytest.approx(hours / 2)


def test_passes() -> None:
    assert passes([Hook()]) == 1
    assert passes([ExtraPass(abs, "discarded")]) == pytest.approx(4 / 3)
    two_views = Hook()
    two_views.copies = 2
    assert passes([two_views, ExtraPass(abs)]) == 4


def test_the_page_is_up_to_date(bench) -> None:
    """All rows follow from today's recipes; multiply-adds are counted anew for two models."""
    text = bench.PAGE.read_text()
    remedy = "./reproduce.sh bench hours --write brings docs/training-cost.md up to date"
    rows = {line.split("|")[2].strip(): line for line in text.splitlines() if line.count("|") == 8 and "." in line}
    rows.pop("model", None)
    papers = {model: paper for paper, model in bench.trainable()}
    assert rows.keys() == papers.keys(), remedy
    expected = [bench.row(papers[model], model, float(line.split("|")[3])) for model, line in rows.items()]
    assert text == bench.page(expected), remedy
    for model in ("rvt_tiny", "vars_d_rvt_tiny"):
        with shapes_only():
            built = timm.create_model(model)
        assert float(rows[model].split("|")[3]) == round(flops(built).total / 1e9, 2), remedy
    assert f"{A100.utilisation:.0%}" in text
