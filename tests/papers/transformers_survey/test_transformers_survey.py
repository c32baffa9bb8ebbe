"""The survey's families: what their modules compute, cost and reach."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from common import bench
from common.errors import UserError
from common.profiling.timing import Cost, Spread
from papers.transformers_survey import claims, families, mini, reach, scaling
from papers.transformers_survey.families import FAMILIES, Family, family

each_family = pytest.mark.parametrize("one", FAMILIES, ids=lambda one: one.name)


@each_family
def test_a_layer_takes_and_gives_tokens_of_either_stage(one: Family) -> None:
    torch.manual_seed(0)
    for dim, heads, side in ((16, 1, 14), (48, 3, 7)):
        x = torch.randn(2, side**2, dim)
        layer = one.make(dim, heads, side).eval()
        assert layer(x).shape == x.shape
        # Images are mixed by none.
        torch.testing.assert_close(layer(x[:1]), layer(x)[:1], rtol=1e-4, atol=1e-5)


def test_axial_attention_is_attention_of_lines() -> None:
    torch.manual_seed(0)
    layer = families.Axial(8, 2)
    x = torch.randn(1, 9, 8)
    grid = x.view(3, 3, 8)
    columns = torch.stack([layer.columns(grid[None, :, column])[0] for column in range(3)], dim=1)
    rows = torch.stack([layer.rows(columns[None, row])[0] for row in range(3)])
    torch.testing.assert_close(layer(x), rows.view(1, 9, 8))


def test_windows_attend_within_themselves() -> None:
    torch.manual_seed(0)
    layer = families.Windows(8, 2, 14)
    x = torch.randn(1, 196, 8)
    part = x.view(14, 14, 8)[7:, :7].reshape(1, 49, 8)
    torch.testing.assert_close(layer(x).view(14, 14, 8)[7:, :7].reshape(1, 49, 8), layer.attn(part))
    assert families.Windows(8, 2, 16).window == 8
    with pytest.raises(UserError, match="10 x 10 cannot be cut into windows of 7 or 8"):
        families.Windows(8, 2, 10)
    with pytest.raises(UserError, match="197 tokens are no square grid"):
        layer(torch.randn(1, 197, 8))


def test_multiply_adds_are_those_of_the_closed_forms() -> None:
    n, c = 16**2, scaling.DIM
    assert scaling.multiply_adds(family("global"), 16) == 4 * n * c**2 + 2 * n**2 * c
    assert scaling.multiply_adds(family("axial"), 16) == 2 * (4 * n * c**2 + 2 * n * 16 * c)
    assert scaling.multiply_adds(family("token_mlp"), 16) == n**2 * c
    assert scaling.multiply_adds(family("windows"), 16) == 4 * n * c**2 + 2 * n * 64 * c


def test_exponents_are_fitted_and_told_from_wrong_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scaling.exponent((2, 4, 8), [1.0, 7.0, 7.0 * 4**1.5]) == pytest.approx(1.5)
    few = tuple(one for one in FAMILIES if one.name in ("global", "windows", "axial_mlp"))
    monkeypatch.setattr(scaling, "FAMILIES", few)
    counts = scaling.counted()
    *numbers, finding = list[Any](scaling.complexity(counts))
    assert finding.verdict == "holds"
    assert [round(number.value, 1) for number in numbers] == [2.0, 1.0, 1.5]
    wrong = tuple(dataclasses.replace(one, exponent=1.5) if one.name == "global" else one for one in few)
    monkeypatch.setattr(scaling, "FAMILIES", wrong)
    finding = list[Any](scaling.complexity(counts))[-1]
    assert finding.verdict == "does not hold"
    assert "global" in finding.evidence


@pytest.mark.parametrize(("power", "verdicts"), [(1.0, ["does not hold", "holds"]), (2.0, ["holds", "does not hold"])])
def test_verdicts_on_time_and_memory_follow_the_exponents(power: float, verdicts: list[str]) -> None:
    def costs() -> list[Cost]:
        return [Cost(Spread.of([float(side ** (2 * power))]), int(side ** (2 * power))) for side in scaling.TIMED]

    measured = {one.name: costs() for one in FAMILIES}
    found = list[Any](scaling.time_and_memory(measured, quick=False))
    assert [each.verdict for each in found[-2:]] == verdicts
    assert found[0].value == pytest.approx(power)
    counts = {one.name: [1] * len(scaling.COUNTED) for one in FAMILIES}
    assert "svg" in scaling.scaling_picture(counts, measured, quick=False).svg


def test_costs_are_measured_of_every_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "QUICK", (7, 8))
    costs = scaling.measured_costs("cpu", quick=True)
    assert set(costs) == {one.name for one in FAMILIES}
    assert all(len(own) == 2 and own[0].seconds.median > 0 and own[0].memory for own in costs.values())


def test_reach_is_what_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = SimpleNamespace()
    *numbers, finding = list[Any](claims.long_range(run))
    assert finding.verdict == "holds"
    shares = {number.model.partition(".")[2]: number.value for number in numbers}
    assert shares["windows"] == pytest.approx(25)
    assert shares["gated_convolution"] == pytest.approx(100 * 49 / 196)
    assert shares["lstm"] == pytest.approx(100 * 27 / 196)
    changed = tuple(dataclasses.replace(one, whole=True) for one in FAMILIES)
    monkeypatch.setattr(reach, "FAMILIES", changed)
    finding = list[Any](reach.findings())[-1]
    assert finding.verdict == "does not hold"


def test_networks_start_alike_and_learn_in_all_their_layers() -> None:
    x = torch.rand(2, 3, 28, 28)
    torch.manual_seed(0)
    host = bench.hosts.pyramid_mini()
    for contender in claims.contenders():
        model = contender.build()
        own = model.state_dict()
        own.update({name: value for name, value in host.state_dict().items() if ".attn." not in name})
        model.load_state_dict(own)
        # Residual branches end at zero, so that families make no difference at first.
        torch.testing.assert_close(model.eval()(x), host.eval()(x))
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.1)
        model.train()(x).square().sum().backward()
        idle = [
            name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
        ]
        assert not [name for name in idle if not name.endswith("bias")], contender.name


def test_the_primary_findings_are_of_contenders_that_are_trained() -> None:
    names = {contender.name for contender in claims.contenders()}
    assert len(names) <= 9
    assert {claims.GLOBAL, *claims.CHEAPER, mini.HOST} <= names
    assert claims.GLOBAL not in claims.CHEAPER
