"""Time and memory: known allocations and known ratios."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.profiling import (
    Cost,
    Spread,
    compare_cost,
    cost,
    forward,
    peak_memory,
    ratio_finding,
    time_measurement,
    timing,
    training_step,
)

MB = 1 << 20


def block(megabytes):
    return torch.zeros(megabytes * MB, dtype=torch.uint8)


def one():
    return block(20)


def one_after_another():
    for _ in range(3):
        block(20)


def together():
    return block(20), block(30)


def first_released():
    first, second = block(20), block(10)
    del first
    return second, block(15)


@pytest.mark.parametrize(
    ("function", "megabytes"), [(one, 20), (one_after_another, 20), (together, 50), (first_released, 30)]
)
def test_peak_memory_sees_known_allocations(function, megabytes):
    assert peak_memory(function) == megabytes * MB


def test_peak_memory_sees_what_autograd_keeps_and_buffers_inside_operators():
    x = torch.zeros(MB, requires_grad=True)

    def chain(steps):
        y = x
        for _ in range(steps):
            y = y.exp()
        return y

    assert peak_memory(lambda: chain(5)) == 5 * 4 * MB
    assert peak_memory(lambda: chain(5).detach()) == 5 * 4 * MB
    with torch.no_grad():
        assert peak_memory(lambda: chain(5)) == 2 * 4 * MB
    # What was there before is not counted, and releasing it does not hide what comes after.
    held = [block(20)]
    assert peak_memory(lambda: (held.clear(), block(5))) <= 5 * MB
    # A circular convolution pads its input in a buffer that is neither argument nor result.
    unfolded = nn.Conv2d(8, 1, 3, padding=1, padding_mode="circular", bias=False)
    image = torch.zeros(1, 8, 256, 256)
    with torch.no_grad():
        assert peak_memory(lambda: unfolded(image)) >= 8 * 258 * 258 * 4


class Clock:
    """A clock that stands still unless a candidate moves it, in place of the machine's."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.calls = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def candidate(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds() if callable(seconds) else seconds

        return run


def test_ratios_are_taken_within_a_round(monkeypatch):
    clock = Clock(monkeypatch)
    speed = iter([1, 1, 1, 1, 3, 3, 10, 10, 2, 2])  # how slow the machine is, at each call
    candidates = {
        "short": clock.candidate("short", lambda: 0.5 * next(speed)),
        "long": clock.candidate("long", lambda: 1.5 * next(speed)),
    }
    compared = compare_cost(candidates, baseline="short", rounds=4, warmup=0, memory=False)
    assert compared["short"].time_ratio == Spread(1, 1, 1, 4)
    assert compared["long"].time_ratio == Spread(3, 3, 3, 4)
    assert compared["long"].cost.seconds == Spread(3.75, 2.625, 7.125, 4)


def test_candidates_take_turns(monkeypatch):
    clock = Clock(monkeypatch)
    candidates = {name: clock.candidate(name, 1.0) for name in "abc"}
    compare_cost(candidates, baseline="a", rounds=3, warmup=1, memory=False)
    assert "".join(clock.calls) == "aabbcc" + "abc" + "bca" + "cab"


def test_memory_ratio():
    candidates = {"one": one, "together": together, "nothing": lambda: None}
    compared = compare_cost(candidates, baseline="one", rounds=1, warmup=0)
    assert {name: own.memory_ratio for name, own in compared.items()} == {"one": 1, "together": 2.5, "nothing": 0}
    assert compare_cost(candidates, baseline="nothing", rounds=1, warmup=0)["one"].memory_ratio is None


def test_a_short_function_is_repeated_within_a_sample():
    calls = []
    cost(lambda: calls.append(0), rounds=2, warmup=0, memory=False)
    assert len(calls) > 100


def test_training_costs_more_than_inference_and_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 64))
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(512, 64)
    compared = compare_cost(
        {"forward": forward(model, x), "training": training_step(model, x)}, baseline="forward", rounds=3
    )
    assert compared["training"].memory_ratio > 1
    assert compared["training"].cost.memory >= sum(p.numel() * 4 for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_models_with_several_outputs():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x), x

    assert cost(training_step(Pair(), torch.ones(2, 4)), rounds=1, warmup=0).seconds.n == 1


def test_quartiles():
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3, 2, 4, 5)
    assert Spread.of([2.0]) == Spread(2, 2, 2, 1)
    assert str(Spread(1.5, 1.25, 2, 5)) == "1.5 [1.25, 2]"


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.0, 1.2, 1.3, 1.4, 1.5, 1.9], "holds"),
        ([1.0, 1.2, 1.3, 1.4, 1.5, 2.1], "unclear"),
        ([2.1, 2.2, 2.3, 2.4, 2.5, 3.0], "does not hold"),
        ([1.0, 1.0, 1.0, 1.0, 1.0], "unclear"),  # too few rounds for an interval
    ],
)
def test_a_verdict_on_a_cost_is_one_on_the_interval_of_the_median(ratios, verdict):
    finding = ratio_finding("s", Spread.of(ratios), 2.0, whose="the baseline's", rest="; batch 4", name="n")
    assert (finding.verdict, finding.name) == (verdict, "n")
    assert finding.over == ("rounds" if len(ratios) == 6 else "")
    assert f"times the baseline's time, median of {len(ratios)} rounds" in finding.evidence
    assert finding.evidence.endswith("; batch 4.")


def test_a_time_is_that_of_one_image():
    measured = time_measurement("net", "forward_time", Cost(Spread.of([2.0] * 6), 5_000_000), 4, 224)
    assert (measured.value, measured.unit, measured.interval, measured.peak_memory) == (
        500.0,
        "ms",
        (500.0, 500.0),
        5.0,
    )


def test_mistakes_are_one_sentence():
    with pytest.raises(UserError, match="Did you mean self_attention"):
        compare_cost({"self_attention": one}, baseline="self_atention")
    with pytest.raises(UserError, match="at least 1 round"):
        cost(one, rounds=0)
