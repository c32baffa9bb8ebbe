"""The training loop on a GPU: what no CPU can stand in for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from common.training.hooks import Hook
from common.training.loop import train
from common.training.options import Options

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

GPU = Options(device="cuda", checkpoint_steps=4)


class StopAt(Hook):
    """Fail after a step, as a node does; never at 0."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run) -> None:
        if run.step == self.step:
            raise RuntimeError("the node is gone")


@pytest.fixture(autouse=True)
def deterministic_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def far(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max((a.double().cpu() - b.double().cpu()).abs().max().item() for a, b in pairs)


def test_a_gpu_computes_the_cpus_steps(data, recipe, make_model) -> None:
    on_gpu, on_cpu = make_model(dropout=0), make_model(dropout=0)
    result = train(on_gpu, recipe("plain"), data, options=GPU)
    expected = train(on_cpu, recipe("plain"), data, options=Options(device="cpu"))
    assert next(on_gpu.parameters()).is_cuda
    assert far(on_gpu, on_cpu) < 1e-5
    assert result.metrics == pytest.approx(expected.metrics, rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_precision_learns(data, recipe, make_model, precision) -> None:
    result = train(make_model(dropout=0), recipe("plain", "epochs=8", f"precision={precision}"), data, options=GPU)
    assert result.metrics["top1"] == 100


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_an_interrupted_run_equals_an_undisturbed_one(data, recipe, make_model, tmp_path, precision) -> None:
    chosen = recipe("tiny", f"precision={precision}")
    whole, resumed = make_model(), make_model()
    expected = train(whole, chosen, data, folder=tmp_path / "whole", hooks=[StopAt(0)], options=GPU)
    with pytest.raises(RuntimeError, match="the node is gone"):
        train(make_model(), chosen, data, folder=tmp_path / "part", hooks=[StopAt(11)], options=GPU)
    result = train(resumed, chosen, data, folder=tmp_path / "part", hooks=[StopAt(0)], options=GPU)
    assert far(whole, resumed) == 0
    assert far(expected.ema, result.ema) == 0
    assert result.metrics == expected.metrics


def test_losses_that_are_fetched_rarely_are_all_logged(data, recipe, make_model, tmp_path) -> None:
    train(make_model(dropout=0), recipe("plain"), data, folder=tmp_path / "gpu", options=GPU)
    train(make_model(dropout=0), recipe("plain"), data, folder=tmp_path / "cpu", options=Options(device="cpu"))
    gpu, cpu = (
        [float(row.split(",")[column]) for row in rows[1:]]
        for rows in ((tmp_path / name / "history.csv").read_text().splitlines() for name in ("gpu", "cpu"))
        for column in [rows[0].split(",").index("train_loss")]
    )
    assert gpu == pytest.approx(cpu, rel=1e-4)


def test_what_inductor_compiles_learns(data, recipe, make_model) -> None:
    torch.use_deterministic_algorithms(False)
    compiled = Options(device="cuda", compile="inductor")
    assert train(make_model(dropout=0), recipe("plain", "epochs=8"), data, options=compiled).metrics["top1"] == 100
