from __future__ import annotations

import os
import random
import resource
import signal
import threading
import time

import pytest
import torch

from common.errors import UserError
from common.training import checkpointing, interrupts, loop
from common.training.checkpointing import checkpoints, load_checkpoint
from common.training.hooks import Hook
from common.training.loop import Interrupted, train
from common.training.options import Options

CPU = Options(device="cpu", checkpoint_steps=4)


class Draws(Hook):
    """A hook with a state of its own and a random draw."""

    def __init__(self) -> None:
        self.total = torch.zeros(())

    def on_batch(self, run, batch):
        noise = torch.rand(())
        self.total += noise
        batch.images = batch.images + 0.01 * noise

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


class At(Hook):
    """Call something after a step; by default never."""

    def __init__(self, step: int = 0, action=None) -> None:
        self.step, self.action = step, action

    def on_step(self, run):
        if run.step == self.step:
            self.action()


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def metrics_of(result) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in result.history]


@pytest.fixture
def uninterrupted(data, recipe, make_model, tmp_path):
    """Parameters, averaged parameters, metrics and hook state of a run that nobody disturbs."""
    model, hook = make_model(), Draws()
    result = train(model, recipe(), data, folder=tmp_path / "whole", hooks=[hook, At()], options=CPU)
    return model.state_dict(), result.ema.state_dict(), metrics_of(result), hook.total


@pytest.fixture
def assert_resumes(data, recipe, make_model, uninterrupted):
    """Repeat the command on a folder, and compare every bit with the undisturbed run."""

    def check(folder, options=CPU) -> None:
        model, hook = make_model(), Draws()
        result = train(model, recipe(), data, folder=folder, hooks=[hook, At()], options=options)
        parameters, averaged, metrics, total = uninterrupted
        for expected, ours in ((parameters, model.state_dict()), (averaged, result.ema.state_dict())):
            for name, tensor in expected.items():
                assert torch.equal(tensor, ours[name]), name
        assert metrics_of(result) == metrics
        assert torch.equal(hook.total, total)
        assert result.steps == 18

    return check


@pytest.mark.parametrize("draw", range(4))
def test_killed_at_a_random_step(data, recipe, make_model, processes, tmp_path, assert_resumes, draw) -> None:
    step = random.Random(draw).randint(1, 17)

    def child(rank: int) -> None:
        hooks = [Draws(), At(step, kill_self)]
        train(make_model(), recipe(), data, folder=tmp_path, hooks=hooks, options=CPU)

    assert processes(child, 1) == [-signal.SIGKILL]
    saved = [int(path.stem.removeprefix("step-")) for path in checkpoints(tmp_path)]
    assert saved == sorted(done for done in (4, 6, 8, 12, 16) if done < step)[-2:]
    assert_resumes(tmp_path)


def test_killed_at_any_moment_again_and_again(data, recipe, make_model, processes, tmp_path, assert_resumes) -> None:
    def child(rank: int, delay: float) -> None:
        threading.Timer(delay, kill_self).start()
        train(make_model(), recipe(), data, folder=tmp_path, hooks=[Draws(), At()], options=CPU)
        time.sleep(delay)

    delays = random.Random(0)
    for _ in range(4):
        assert processes(child, 1, delays.uniform(0.02, 0.4)) == [-signal.SIGKILL]
    assert_resumes(tmp_path)


def test_killed_while_writing_a_checkpoint(data, recipe, make_model, processes, tmp_path, assert_resumes) -> None:
    def child(rank: int) -> None:
        whole = torch.save

        def half(state, file) -> None:
            if state["step"] == 12:
                file.write(b"PK\x03\x04" + b"x" * 1000)
                file.flush()
                kill_self()
            whole(state, file)

        checkpointing.torch.save = half
        train(make_model(), recipe(), data, folder=tmp_path, hooks=[Draws(), At()], options=CPU)

    assert processes(child, 1) == [-signal.SIGKILL]
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000006.pt", "step-000000008.pt"]
    assert_resumes(tmp_path)
    assert not list((tmp_path / "checkpoints").glob("*.part")), "what the killed process left is cleared away"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_at_a_whole_step(data, recipe, make_model, tmp_path, assert_resumes, number) -> None:
    hooks = [Draws(), At(7, lambda: os.kill(os.getpid(), number))]
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=rf"{number.name} after step 7; the same command goes on from there"):
        train(make_model(), recipe(), data, folder=tmp_path, hooks=hooks, options=CPU)
    assert signal.getsignal(number) is before
    assert checkpoints(tmp_path)[-1].name == "step-000000007.pt"
    assert_resumes(tmp_path)


def test_two_signals_of_one_request_stop_at_a_whole_step_and_a_later_one_at_once(monkeypatch) -> None:
    """On Ctrl-C a process of torchrun has the terminal's SIGINT and torchrun's."""
    now = [10.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
    with interrupts.Interrupts() as active:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert active.received == signal.SIGINT
        now[0] += 5
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_scale_of_float16_survives_a_kill(data, recipe, make_model, processes, tmp_path, monkeypatch) -> None:
    """The loss scaling of float16 on the CPU: gradients clipped after unscaling, a step left out, and a resume."""
    make = loop.make_accelerator

    def with_scaler(*args, **settings):
        accelerator = make(*args, **settings)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        return accelerator

    monkeypatch.setattr(loop, "make_accelerator", with_scaler)

    class Overflow(Hook):
        def __init__(self, kill: bool) -> None:
            self.kill = kill
            self.scales: list[float] = []

        def on_loss(self, run, batch, loss):
            # The gradient alone overflows, as it does in float16 while the scale is being found.
            return loss + 0 * (loss - loss.detach()) * 1e38 * 1e38 if run.step == 4 else loss

        def on_step(self, run):
            self.scales.append(run.accelerator.scaler.get_scale())
            if self.kill and run.step == 11:
                kill_self()

    def run(folder, *, kill: bool = False):
        model, hook = make_model(), Overflow(kill)
        options = Options(device="cpu", checkpoint_steps=4, device_batch=4)
        result = train(model, recipe(), data, folder=folder, hooks=[hook], options=options)
        return model.state_dict() | {f"ema.{k}": v for k, v in result.ema.state_dict().items()}, hook.scales

    whole, scales = run(tmp_path / "whole")
    assert scales[2:5] == [2048, 2048, 1024]  # grown after three good steps, halved after the overflow
    assert processes(lambda rank: run(tmp_path / "killed", kill=True), 1) == [-signal.SIGKILL]
    resumed, later = run(tmp_path / "killed")
    assert later == scales[8:]
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_a_finished_run_is_not_trained_again(data, recipe, make_model, tmp_path) -> None:
    lines: list[str] = []
    first = train(make_model(), recipe(), data, folder=tmp_path, options=CPU)
    again = train(make_model(), recipe(), data, folder=tmp_path, options=Options(device="cpu", say=lines.append))
    assert again.history == first.history
    assert any("step 18 of 18" in line for line in lines)
    stored = torch.load(tmp_path / "model.pt", weights_only=True)
    assert set(stored) == {"run", "form", "model", "model_ema"}
    assert stored["run"]["recipe"]["epochs"] == first.recipe.epochs
    make_model().load_state_dict(stored["model"])


@pytest.fixture
def stopped(data, recipe, make_model, tmp_path):
    """A folder with checkpoints after steps 6 and 8."""

    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    hook = At(9, stop)
    with pytest.raises(StopError):
        train(make_model(), recipe(), data, folder=tmp_path, hooks=[Draws(), hook], options=CPU)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000006.pt", "step-000000008.pt"]
    return tmp_path


@pytest.mark.parametrize("length", [0, 1000, -20])
def test_a_truncated_checkpoint_is_refused_and_the_previous_one_used_on_request(
    data, recipe, make_model, stopped, assert_resumes, length
) -> None:
    newest = checkpoints(stopped)[-1]
    newest.write_bytes(newest.read_bytes()[:length])
    with pytest.raises(UserError, match=r"step-000000008\.pt is (damaged|empty|not ).*; .*--from-previous") as error:
        train(make_model(), recipe(), data, folder=stopped, hooks=[Draws(), At()], options=CPU)
    assert "\n" not in str(error.value)
    assert_resumes(stopped, Options(device="cpu", checkpoint_steps=4, from_previous=True))


def test_another_recipe_model_or_data_is_refused(data, recipe, make_model, stopped) -> None:
    def go_on(model=None, changes=(), hooks=None, **settings) -> str:
        hooks = [Draws(), At()] if hooks is None else hooks
        with pytest.raises(UserError) as error:
            train(
                model or make_model(),
                recipe("tiny", *changes),
                data,
                folder=stopped,
                hooks=hooks,
                options=CPU,
                **settings,
            )
        return str(error.value)

    assert "another recipe, where epochs is 3 and not 5" in go_on(changes=["epochs=5"])
    assert "another recipe, where seed is 0 and not 4" in go_on(seed=4)
    assert "another model" in go_on(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)))
    assert "other hooks" in go_on(hooks=())
    assert len(checkpoints(stopped)) == 2


def test_a_file_that_is_no_checkpoint(tmp_path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save({"weights": torch.zeros(1)}, tmp_path / "checkpoints" / "step-000000005.pt")
    with pytest.raises(UserError, match="not a training checkpoint of this version"):
        load_checkpoint(tmp_path)
    with pytest.raises(UserError, match="no previous one"):
        load_checkpoint(tmp_path, previous=True)
    assert load_checkpoint(tmp_path / "absent") is None


class LimitedDisk(Hook):
    """No file may grow beyond ``size`` bytes after the steps ``first`` to ``last``: writes fail as on a full disk."""

    def __init__(self, size: int = 0, first: int = 0, last: int = -1) -> None:
        self.size, self.first, self.last = size, first, last

    def on_step(self, run):
        limit = self.size if self.first <= run.step <= self.last else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@pytest.fixture
def limits():
    """The system ends a process whose file grows too large, unless it ignores the signal, as Python does."""
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.parametrize("size", [0, 1000, 5000])
def test_a_full_disk_is_survived(data, recipe, make_model, tmp_path, limits, size) -> None:
    """Writes fail from step 8 to 12: training goes on, says so, and the last good checkpoint stays until the next."""
    lines: list[str] = []
    found = []

    def look() -> None:
        found.extend(sorted(path.name for path in (tmp_path / "checkpoints").iterdir()))

    options = Options(device="cpu", checkpoint_steps=4, say=lines.append)
    hooks = [LimitedDisk(size, 8, 12), At(13, look)]
    result = train(make_model(), recipe(), data, folder=tmp_path, hooks=hooks, options=options)
    assert result.steps == 18
    assert found == ["step-000000004.pt", "step-000000006.pt"]
    said = [line for line in lines if line.startswith("The checkpoint")]
    assert [line.partition(" could")[0] for line in said] == [f"The checkpoint after step {step}" for step in (8, 12)]
    assert all("could not be written (File too large); the last good" in line for line in said)
    assert all(line.endswith("step-000000006.pt.") for line in said)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000016.pt", "step-000000018.pt"]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_disk_that_stays_full_ends_in_a_sentence(data, recipe, make_model, tmp_path, limits) -> None:
    hooks = [LimitedDisk(1000, 1, 18)]
    with pytest.raises(UserError, match=r"model\.pt could not be written \(File too large\): .* no checkpoint"):
        train(make_model(), recipe(), data, folder=tmp_path, hooks=hooks, options=CPU)
    assert (tmp_path / "history.csv").exists()
    assert not list(tmp_path.rglob("*.pt"))
    assert not list(tmp_path.rglob("*.part"))


def test_a_log_that_cannot_be_written_does_not_stop_training(data, recipe, make_model, tmp_path) -> None:
    (tmp_path / "history.csv").mkdir()
    lines: list[str] = []
    result = train(make_model(), recipe(), data, folder=tmp_path, options=Options(device="cpu", say=lines.append))
    assert result.steps == 18
    assert sum("history.csv could not be written" in line for line in lines) == 1


def test_the_log_of_a_resumed_run_is_whole(data, recipe, make_model, stopped) -> None:
    train(make_model(), recipe(), data, folder=stopped, hooks=[Draws(), At()], options=CPU)
    rows = (stopped / "history.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,step,learning_rate,train_loss,top1,loss,ema_top1,ema_loss,images_per_second")
    assert [row.split(",")[:2] for row in rows[1:]] == [["1", "6"], ["2", "12"], ["3", "18"]]
