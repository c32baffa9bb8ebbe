"""Curves of trainings: what is kept of short ones, and what is drawn."""

from __future__ import annotations

import re

import pytest

from common.errors import UserError
from common.training.curves import POINTS, LossCurve, read_history, training_curves
from common.training.hooks import Hook
from common.training.logs import history_csv
from common.training.loop import train
from common.training.options import Options


def test_the_loss_of_a_short_training_is_kept_in_parts_of_an_epoch(data, recipe, make_model) -> None:
    losses = []

    class Record(Hook):
        def on_loss(self, run, batch, loss):
            losses.append(float(loss.detach()))
            return loss

    curve = LossCurve()
    chosen = recipe("plain", "epochs=2", "evaluate_every=2")  # 12 steps
    result = train(make_model(), chosen, data, hooks=[Record(), curve], options=Options(device="cpu"))
    assert [row["epoch"] for row in curve.rows] == pytest.approx([step / 6 for step in range(1, 13)])
    assert [row["train_loss"] for row in curve.rows] == pytest.approx(losses)
    assert all(0 <= row["train_top1"] <= 100 for row in curve.rows)
    assert len({row["train_top1"] for row in curve.rows}) > 1
    rows = curve.with_validation(result.history)
    assert len(rows) == 13
    assert rows[-1] == {"epoch": 2, "top1": result.metrics["top1"], "loss": result.metrics["loss"]}
    without = train(make_model(), chosen, data, options=Options(device="cpu"))
    assert without.metrics == result.metrics
    longer = LossCurve()
    train(make_model(), recipe("plain", "epochs=10"), data, hooks=[longer], options=Options(device="cpu"))
    assert len(longer.rows) == POINTS


def test_one_training_has_a_colour_a_curve_and_several_one_a_model(tmp_path) -> None:
    rows = [{"epoch": epoch, "train_loss": 2 / epoch, "loss": 2.2 / epoch, "top1": 50 + epoch} for epoch in (1, 2, 3)]
    alone = training_curves("training", {"net": [rows]})
    assert {">training<", ">validation<", ">top-1<"} <= set(_texts(alone.svg))
    assert ">top-5<" not in alone.svg
    both = training_curves("training", {"net <a>": [rows, rows], "other": [rows[:1]]})
    assert {">net &lt;a&gt;<", ">other<"} <= set(_texts(both.svg))
    assert _texts(both.svg).count(">net &lt;a&gt;<") == 1
    assert training_curves("training", {}) is None
    assert training_curves("training", {"net": [[]]}) is None


def _texts(svg: str) -> list[str]:

    return re.findall(r">[^<>]+<", svg)


def test_a_log_is_read_as_it_was_written_and_nothing_else_is_one(tmp_path) -> None:
    path = tmp_path / "history.csv"
    path.write_text(history_csv([{"model": "a,b", "epoch": 0.5, "train_loss": 2.5}, {"model": "a,b", "epoch": 1}]))
    assert read_history(path) == [{"model": "a,b", "epoch": "0.5", "train_loss": "2.5"}, {"model": "a,b", "epoch": "1"}]
    for text in ("x,y\n1,2\n", "epoch,loss\nlate,2\n"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"history\.csv is no log of a training"):
            read_history(path)
