"""The claim ``size``: which models are counted, under which names, and how a paper counts otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import papers
from common.run import Run, Settings, measuring_function


def sizes(slug: str, folder: Path, *models: str) -> dict[tuple[str, str], float]:
    """What a paper's claim ``size`` measures of some of its models, by name and metric."""
    paper = papers.find(slug)
    kept = tuple(model for model in paper.all_models if model.name in models)
    assert len(kept) == len(models)
    run = Run(replace(paper, models=kept, reused_models=()), Settings(quick=True), folder)
    claim = next(claim for claim in paper.claims if claim.name == "size")
    return {(m.model, m.metric): m.value for m in measuring_function(paper, claim)(run)}


def test_a_model_is_counted_under_every_printed_name(tmp_path: Path) -> None:
    counted = sizes("fan", tmp_path, "fan_tiny_8_p4_hybrid", "fan_base_16_p4_hybrid")
    tagged = "fan_base_16_p4_hybrid.in22k_ft_in1k"
    assert {name for name, _ in counted} == {"fan_tiny_8_p4_hybrid", "fan_base_16_p4_hybrid", tagged}
    for metric in ("params", "flops"):
        assert counted[tagged, metric] == counted["fan_base_16_p4_hybrid", metric]


def test_a_model_of_which_nothing_is_printed_is_counted_under_its_own_name(tmp_path: Path) -> None:
    assert set(sizes("vars", tmp_path, "vars_d_rvt_tiny")) == {("vars_d_rvt_tiny", m) for m in ("params", "flops")}


@pytest.mark.parametrize("slug", ["rvt", "vars"])
def test_a_paper_may_count_several_forms(slug: str, tmp_path: Path) -> None:
    counted = sizes(slug, tmp_path, "rvt_base_plus")
    assert round(counted["rvt_base_plus", "params"], 1) == 91.8
    assert round(counted["rvt_base_plus.released", "params"], 1) == 88.5


def test_swin_is_counted_at_its_own_size_as_released(tmp_path: Path) -> None:
    counted = sizes("swin", tmp_path, "swin_large_patch4_window12_384", "swinv2_tiny_window8_256")
    assert round(counted["swinv2_tiny_window8_256", "flops"], 1) == 5.9
    assert counted["swin_large_patch4_window12_384.in22k_ft_in1k", "flops"] == pytest.approx(103.9, abs=0.15)
