from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import pytest

from common.errors import UserError
from common.training.logs import history_csv
from common.training.loop import train
from common.training.options import Options


def test_curves_go_to_tensorboard(data, recipe, make_model, tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    chosen = recipe("plain", "epochs=9")  # 54 steps: one point of the step curves, nine of the epoch curves
    result = train(make_model(), chosen, data, folder=tmp_path, options=Options(device="cpu", tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"step/loss", "step/learning_rate", "epoch/top1", "epoch/train_loss", "epoch/images_per_second"} <= set(tags)
    assert [(point.step, point.value) for point in events.Scalars("epoch/top1")] == [
        (row["step"], pytest.approx(row["top1"])) for row in result.history
    ]
    assert [point.step for point in events.Scalars("step/loss")] == [50]


def test_curves_go_to_wandb_on_request(data, recipe, make_model, monkeypatch) -> None:
    logged = []
    run = SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append("end"))
    started = {}

    def init(**settings):
        started.update(settings)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Error=OSError))
    train(make_model(), recipe("plain", "epochs=1"), data, options=Options(device="cpu", wandb="my-project"))
    assert started["project"] == "my-project"
    assert started["config"]["recipe"]["epochs"] == 1
    assert logged[0][0] == 6
    assert "epoch/top1" in logged[0][1]
    assert logged[-1] == "end"

    def refuse(**settings):
        raise OSError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse, Error=OSError))
    with pytest.raises(UserError, match=r"cannot start \(No API key .*\): .* WANDB_MODE=offline"):
        train(make_model(), recipe("plain"), data, options=Options(device="cpu", wandb="my-project"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        train(make_model(), recipe("plain"), data, options=Options(device="cpu", wandb="my-project"))


def test_the_recipe_and_provenance_are_stored_and_printed(data, recipe, make_model, tmp_path) -> None:
    lines: list[str] = []
    options = Options(device="cpu", device_batch=4, say=lines.append)
    train(make_model(), recipe("plain", "epochs=1"), data, seed=3, folder=tmp_path, options=options)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"]["recipe"] == recipe("plain", "epochs=1").as_dict() | {"seed": 3}
    assert record["settings"]["data"]["train_images"] == 48
    assert {"command", "code", "versions", "hardware"} <= record.keys()
    assert "recipe plain, deviating: epochs=1" in lines[0]
    assert "4 images per device x 1 devices x 2 accumulation steps = total batch 8; seed 3; cpu" in lines[0]
    assert lines[1].startswith("epoch 1/1: learning_rate 0.05, train_loss ")


def test_the_csv_has_a_column_for_each_metric_of_any_epoch() -> None:
    text = history_csv([{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 2.0, "top1": 10.0}])
    assert text == "epoch,loss,top1\n1,2.5,\n2,2.0,10.0\n"


def test_progress_tells_throughput_and_remaining_time(data, recipe, make_model, monkeypatch, capsys) -> None:
    from common import progress

    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    train(make_model(), recipe("plain", "epochs=1"), data, options=Options(device="cpu", progress="training tiny"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert re.fullmatch(r"training tiny: 3/6, \d+ s, about \d+ s left, \d+ images/s", lines[2])
    column = progress._Throughput("images", 8)
    assert column.render(SimpleNamespace(speed=2.5)).plain == "20 images/s"
    assert column.render(SimpleNamespace(speed=None)).plain == ""
