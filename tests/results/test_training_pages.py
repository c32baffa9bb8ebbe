"""The curves in the report of a run, and the report of a training by itself."""

from __future__ import annotations

import json
import re

import pytest

import results
from common.errors import UserError
from common.training.logs import history_csv
from results.training import curves, write_report
from tests.results.fake_paper import Fake

ROWS = [{"epoch": epoch / 2, "train_loss": 2 / (1 + epoch)} for epoch in range(1, 5)]


def test_a_run_shows_the_trainings_that_it_made(fake: Fake) -> None:
    run = fake.run()
    assert curves(run.folder) is None
    results.write_all(run)
    assert 'id="training"' not in (run.folder / "report.html").read_text()
    for model in ("net_a", "net_b"):
        for seed in range(2):
            rows = [*ROWS, {"epoch": 2.0, "loss": 0.7, "top1": 80.0 + seed}]
            log = history_csv([{"model": model, "seed": seed, **row} for row in rows])
            (run.folder / "trainings").mkdir(exist_ok=True)
            (run.folder / "trainings" / f"{model}{seed}.csv").write_text(log)
    results.write_all(run)
    page = (run.folder / "report.html").read_text()
    assert 'id="training"' in page
    assert 'href="#training"' in page
    assert page.count(">net_a<") == 1
    assert "a line a seed" in page


@pytest.fixture
def trained(tmp_path):
    """What a training leaves in its folder, as far as the report reads it."""
    rows = [
        {"epoch": epoch, "step": 10 * epoch, "train_loss": 2 / epoch, "top1": 50.0 + epoch, "ema_top1": 49.0 + epoch}
        for epoch in range(1, 31)
    ]
    (tmp_path / "history.csv").write_text(history_csv(rows))
    recipe = {"epochs": 30, "optimizer": "adamw", "changes": ["epochs=30"]}
    record = {"settings": {"recipe": recipe, "device": "cpu", "batch": "8 images"}, "versions": {"torch": "2"}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    return tmp_path


def test_a_training_has_a_report_of_its_own(trained) -> None:
    page = write_report(trained).read_text()
    assert "30 epochs trained; deviates from the recipe: epochs=30." in page
    assert {">top-1<", ">top-1, averaged weights<", ">training<"} <= set(_texts(page))
    assert "The last 20; all are in <code>history.csv</code>" in page
    assert "<dt>optimizer</dt><dd><code>&#34;adamw&#34;</code></dd>" in page
    assert ">80.00<" in page
    assert ">59.00<" not in page  # epoch 10


def test_a_training_without_an_epoch_has_no_report_and_a_damaged_one_says_so(trained) -> None:
    (trained / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        write_report(trained)
    (trained / "history.csv").unlink()
    assert write_report(trained) is None


def _texts(page: str) -> list[str]:
    return re.findall(r">[^<>]+<", page)
