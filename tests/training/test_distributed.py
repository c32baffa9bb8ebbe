"""Two processes on the CPU (gloo), forked so that nothing has to be imported again."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from common.errors import UserError
from common.training.batch_norm import synchronise
from common.training.hooks import ExtraPass, Hook
from common.training.loop import Interrupted, train
from common.training.options import Options

FIVE = ("epochs=1", "epoch_images=40")


def net() -> nn.Module:
    """Without batch norm, whose statistics are a process's own, and without dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 3))


def join(rank: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))


class Listener(nn.Linear):
    """Draws at each step, and must draw the same on every process."""

    def on_optimizer_step(self, step: int) -> None:
        with torch.no_grad():
            self.bias += 0.01 * torch.rand(3)


CASES = {
    "plain": ((), 0),
    "adamw, clipped, averaged, cropped": (
        ("optimizer=adamw", "clip_gradient=0.5", "ema_decay=0.5", "train_crop=padded", "crop_padding=1"),
        0,
    ),
    "accumulating": ((), 2),
    "repeated augmentation": (("repeated_augmentation=3", "horizontal_flip=0.5"), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_steps_of_one(data, recipe, processes, process_group, tmp_path, case) -> None:
    changes, device_batch = CASES[case]
    chosen = recipe("plain", *FIVE, "learning_rate=0.01", *changes)

    def make() -> nn.Module:
        model = net()
        model[3].__class__ = Listener
        return model

    def hooks() -> list[Hook]:
        return [ExtraPass(lambda images: images + 0.1)] if case == "accumulating" else []

    def child(rank: int) -> None:
        join(rank)
        model = make()
        options = Options(device="cpu", device_batch=device_batch)
        result = train(model, chosen, data, hooks=hooks(), folder=tmp_path, options=options)
        state = {"model": model.state_dict(), "ema": result.ema.state_dict() if result.ema else {}}
        torch.save({**state, "metrics": result.metrics, "history": result.history}, tmp_path / f"rank{rank}.pt")

    single = make()
    expected = train(single, chosen, data, hooks=hooks(), options=Options(device="cpu"))
    assert processes(child, 2, **process_group(2)) == [0, 0]
    ours = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for name, tensor in single.state_dict().items():
        assert torch.equal(ours[0]["model"][name], ours[1]["model"][name])
        assert (ours[0]["model"][name] - tensor).abs().max() < 1e-5, name
    if expected.ema:
        for name, tensor in expected.ema.state_dict().items():
            assert (ours[1]["ema"][name] - tensor).abs().max() < 1e-5, name
    assert ours[0]["metrics"] == pytest.approx(expected.metrics, rel=1e-4)
    assert ours[0]["history"][0]["train_loss"] == pytest.approx(expected.history[0]["train_loss"], rel=1e-5)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_a_loss_that_is_not_finite_stops_all_processes(data, recipe, processes, process_group, tmp_path) -> None:
    class Poison(Hook):
        def on_loss(self, run, batch, loss):
            return loss * float("nan") if run.step == 3 and run.rank == 1 else loss

    def child(rank: int) -> None:
        join(rank)
        with pytest.raises(UserError, match="The loss is nan at step 4 of 5"):
            train(net(), recipe("plain", *FIVE), data, hooks=[Poison()], options=Options(device="cpu"))

    assert processes(child, 2, **process_group(2)) == [0, 0]


def test_two_processes_resume_what_one_began(data, recipe, processes, process_group, tmp_path) -> None:
    """The number of processes may change between a kill and the resume."""
    whole = net()
    train(whole, recipe("plain"), data, options=Options(device="cpu"))

    class Stop(Hook):
        def on_step(self, run):
            if run.step == 8 and run.accelerator.num_processes == 1:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        train(net(), recipe("plain"), data, folder=tmp_path, hooks=[Stop()], options=Options(device="cpu"))

    def child(rank: int) -> None:
        join(rank)
        train(net(), recipe("plain"), data, folder=tmp_path, hooks=[Stop()], options=Options(device="cpu"))

    assert processes(child, 2, **process_group(2)) == [0, 0]
    ours = torch.load(tmp_path / "model.pt", weights_only=True)["model"]
    for name, tensor in whole.state_dict().items():
        assert (ours[name] - tensor).abs().max() < 1e-5, name


@pytest.mark.parametrize("fsdp", [False, True])
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    data, recipe, processes, process_group, tmp_path, fsdp
) -> None:
    """Otherwise the others would wait for it until they are killed, without a checkpoint."""
    whole = net()
    train(whole, recipe("plain"), data, options=Options(device="cpu"))
    options = Options(device="cpu", fsdp=fsdp)

    class Preempt(Hook):
        def on_step(self, run):
            if run.step == 9 and run.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    def stopped(rank: int) -> None:
        join(rank)
        with pytest.raises(Interrupted, match="SIGTERM after step 9" if rank else "another process after step 9"):
            train(net(), recipe("plain"), data, hooks=[Preempt()], folder=tmp_path, options=options)

    def resumed(rank: int) -> None:
        join(rank)
        train(net(), recipe("plain"), data, hooks=[Preempt()], folder=tmp_path, options=options)

    assert processes(stopped, 2, **process_group(2)) == [0, 0]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[-1] == "step-000000009.pt"
    assert processes(resumed, 2, **process_group(2)) == [0, 0]
    ours = torch.load(tmp_path / "model.pt", weights_only=True)["model"]
    for name, tensor in whole.state_dict().items():
        assert (ours[name] - tensor).abs().max() < 1e-5, name


def test_a_total_batch_that_does_not_divide(data, recipe, processes, process_group) -> None:
    def child(rank: int) -> None:
        join(rank)
        with pytest.raises(UserError, match="total batch of 9 is not a multiple of 4 images per device x 2 devices"):
            train(net(), recipe("plain", "total_batch=9"), data, options=Options(device="cpu"))

    assert processes(child, 2, **process_group(2)) == [0, 0]


def test_sharded_parameters_take_the_same_steps_and_resume(data, recipe, processes, process_group, tmp_path) -> None:
    """FSDP: two processes with half of the parameters each; killed after a checkpoint, then resumed."""
    chosen = recipe("plain", "learning_rate=0.01", "clip_gradient=0.5", "optimizer=adamw")
    single = net()
    expected = train(single, chosen, data, options=Options(device="cpu"))
    options = Options(device="cpu", fsdp=True, checkpoint_steps=4)

    class Stop(Hook):
        def on_step(self, run):
            local = run.plain_model[3].weight.to_local()
            assert local.numel() < run.plain_model[3].weight.numel()
            if run.step == 9 and not (tmp_path / "once").exists():
                raise RuntimeError

    def killed(rank: int) -> None:
        join(rank)
        with pytest.raises(RuntimeError):
            train(net(), chosen, data, hooks=[Stop()], folder=tmp_path, options=options)

    def resumed(rank: int) -> None:
        join(rank)
        result = train(net(), chosen, data, hooks=[Stop()], folder=tmp_path, options=options)
        assert result.metrics == pytest.approx(expected.metrics, rel=1e-4)

    assert processes(killed, 2, **process_group(2)) == [0, 0]
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-000000006.pt",
        "step-000000008.pt",
    ]
    (tmp_path / "once").touch()
    assert processes(resumed, 2, **process_group(2)) == [0, 0]
    ours = torch.load(tmp_path / "model.pt", weights_only=True)["model"]
    for name, tensor in single.state_dict().items():
        assert (ours[name] - tensor).abs().max() < 1e-5, name


def test_what_does_not_go_with_sharding(data, recipe) -> None:
    with pytest.raises(UserError, match="shards over several devices"):
        train(net(), recipe("plain"), data, options=Options(device="cpu", fsdp=True))


def norms() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 4, 3), BatchNormAct2d(4), nn.Flatten(),
            nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 3),
        )  # fmt: skip


@pytest.mark.parametrize("synchronised", [True, False])
def test_synchronised_batch_norm_has_the_statistics_of_one_process(
    data, recipe, processes, process_group, tmp_path, synchronised
) -> None:
    """And without it, it has not, which the run says."""
    chosen = recipe("plain", *FIVE, "learning_rate=0.01")
    lines: list[str] = []

    def child(rank: int) -> None:
        join(rank)
        model = norms()
        options = Options(device="cpu", sync_batch_norm=synchronised, say=lines.append)
        train(model, chosen, data, options=options)
        assert type(model[1]) is nn.BatchNorm2d
        whose = "synchronised over all processes" if synchronised else "of each process by itself"
        assert (rank == 0) == any(f"batch norm {whose}" in line for line in lines)
        torch.save(model.state_dict(), tmp_path / f"rank{rank}.pt")

    single = norms()
    train(single, chosen, data, options=Options(device="cpu"))
    assert processes(child, 2, **process_group(2)) == [0, 0]
    ours = torch.load(tmp_path / "rank0.pt", weights_only=True)
    apart = max((ours[name] - tensor).abs().max().item() for name, tensor in single.state_dict().items())
    assert (apart < 1e-5) == synchronised


def test_a_batch_norm_of_an_unknown_kind_is_named() -> None:
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(UserError, match="1 is a Own, which cannot be synchronised; leave out --sync-batch-norm"):
        synchronise(nn.Sequential(nn.Identity(), Own(3)))
