from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from common.training.data import TensorData
from common.training.distillation import Distillation
from common.training.hooks import Batch, ExtraPass, Hook
from common.training.loop import train
from common.training.optimisation import Schedule
from common.training.options import Options

CPU = Options(device="cpu")


def run(model, recipe, data, **settings):
    settings.setdefault("options", CPU)
    return train(model, recipe, data, **settings)


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def far(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


def test_it_learns(data, recipe, make_model) -> None:
    result = run(make_model(dropout=0), recipe("plain", "epochs=8"), data)
    assert result.metrics["top1"] == 100
    losses = [row["train_loss"] for row in result.history]
    assert losses[-1] < 0.3 < losses[0]
    assert [row["epoch"] for row in result.history] == list(range(1, 9))
    assert result.steps == 48


def test_the_step_is_the_textbooks(data, recipe, make_model) -> None:
    """The engine does the arithmetic of a bare loop: SGD with momentum, cosine by epoch, plain cross-entropy."""
    chosen = recipe("plain")
    trained, expected = make_model(dropout=0), make_model(dropout=0)
    result = run(trained, chosen, data)
    from common.training.data import epoch_order

    optimizer = torch.optim.SGD(expected.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for epoch in range(3):
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * 0.05 * (1 + math.cos(math.pi * epoch / 3))
        for index in epoch_order(48, chosen, 0, epoch).split(8):
            images = (data.train[0][index] / 255 - 0.5) / 0.25
            loss = F.cross_entropy(expected(images), data.train[1][index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert far(trained, expected) < 1e-5
    assert result.history[-1]["train_loss"] == pytest.approx(sum(losses[-6:]) / 6, rel=1e-4)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(data, recipe, make_model) -> None:
    first, second, third = make_model(), make_model(), make_model()
    results = [run(model, recipe(), data, seed=seed) for model, seed in ((first, 1), (second, 1), (third, 2))]
    assert same(first, second)
    assert results[0].metrics == results[1].metrics
    assert not same(first, third)
    torch.rand(7)  # the global state does not matter
    assert same(results[0].ema, results[1].ema)


@pytest.mark.parametrize("device_batch", [4, 2])
def test_accumulation_gives_the_whole_batchs_gradient(data, recipe, device_batch) -> None:
    chosen = recipe("plain", "epochs=1")
    whole, parts = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    run(whole, chosen, data)
    run(parts, chosen, data, options=Options(device="cpu", device_batch=device_batch))
    assert 0 < far(whole, parts) < 1e-6 or same(whole, parts)


def test_gradients_are_clipped(data, recipe) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False))
    before = model[1].weight.detach().clone()
    chosen = recipe("plain", "epochs=1", "epoch_images=8", "momentum=0", "clip_gradient=0.001")
    run(model, chosen, data)
    assert (model[1].weight - before).norm().item() == pytest.approx(0.05 * 0.001, rel=1e-3)


def test_averaged_weights_follow_and_are_evaluated(data, recipe, make_model) -> None:
    chosen = recipe("plain", "ema_decay=0.5", "epochs=1", "epoch_images=16")
    model = make_model(dropout=0)
    steps = []

    class Record(Hook):
        def on_step(self, run):
            steps.append(run.plain_model.head.weight.detach().clone())

    start = model.head.weight.detach().clone()
    result = run(model, chosen, data, hooks=[Record()])
    expected = 0.25 * start + 0.25 * steps[0] + 0.5 * steps[1]
    assert torch.allclose(result.ema.head.weight, expected, atol=1e-6)
    assert {"ema_top1", "ema_loss", "top1", "loss"} <= result.metrics.keys()


def test_hooks_are_called_in_order_and_change_the_step(data, recipe, make_model) -> None:
    calls = []

    class Spy(Hook):
        def start(self, run):
            calls.append("start")

        def on_batch(self, run, batch):
            calls.append("batch")
            batch.images = torch.zeros_like(batch.images)

        def on_output(self, run, batch):
            calls.append("output")
            batch.targets = torch.zeros_like(batch.labels)

        def on_loss(self, run, batch, loss):
            calls.append("loss")
            return loss + 100

        def on_step(self, run):
            calls.append(run.step)

    chosen = recipe("plain", "epochs=1", "epoch_images=16")
    result = run(make_model(), chosen, data, hooks=[Spy()])
    assert calls == ["start", "batch", "output", "loss", 1, "batch", "output", "loss", 2]
    assert result.history[0]["train_loss"] > 100


def test_modules_are_told_of_each_optimizer_step(data, recipe) -> None:
    class Listener(nn.Linear):
        def on_optimizer_step(self, step: int) -> None:
            heard.append((step, self.weight.grad))

    heard: list = []
    run(nn.Sequential(nn.Flatten(), Listener(64, 3)), recipe("plain", "epochs=1"), data)
    assert heard == [(step, None) for step in range(1, 7)]


def test_an_extra_pass_keeps_or_discards_its_gradient(data, recipe, make_model) -> None:
    """Kept: the update is that of both losses. Discarded: only batch statistics differ, as with cleared gradients."""

    def brighter(images):
        return images + 1

    chosen = recipe("plain", "epochs=1", "epoch_images=8", "momentum=0")
    models = {name: make_model(dropout=0) for name in ("none", "kept", "discarded")}
    for name, model in models.items():
        run(model, chosen, data, hooks=[ExtraPass(brighter, name)] if name != "none" else [])

    from common.training.data import epoch_order

    index = epoch_order(48, chosen, 0, 0)
    images, labels = (data.train[0][index] / 255 - 0.5) / 0.25, data.train[1][index]
    for name in ("kept", "discarded"):
        expected = make_model(dropout=0)
        F.cross_entropy(expected(brighter(images)), labels).backward()
        if name == "discarded":
            expected.zero_grad()
        F.cross_entropy(expected(images), labels).backward()
        torch.optim.SGD(expected.parameters(), lr=0.05).step()
        assert far(models[name], expected) < 1e-6
    without, discarded = models["none"].state_dict(), models["discarded"].state_dict()
    changed = {key for key in without if not torch.equal(without[key], discarded[key])}
    assert changed == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert far(models["none"], models["kept"]) > 1e-3
    with pytest.raises(UserError, match="kept or discarded"):
        ExtraPass(brighter, "lost")


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_distillation_is_the_published_loss(data, recipe, make_model, kind) -> None:
    torch.manual_seed(0)
    teacher = make_model(seed=5, dropout=0.5)
    hook = Distillation(teacher, kind, alpha=0.3, temperature=2.0)
    losses = []

    class Compare(Hook):
        def on_loss(self, run, batch, loss):
            t = teacher(batch.images)
            s = batch.logits
            if kind == "hard":
                term = F.nll_loss(s.log_softmax(1), t.argmax(1))
            else:
                p, q = (t / 2).softmax(1), (s / 2).softmax(1)
                term = 4 * (p * (p / q).log()).sum(1).mean()
            losses.append((loss.item(), (0.7 * F.cross_entropy(s, batch.labels) + 0.3 * term).item()))
            return loss

    run(make_model(dropout=0), recipe("plain", "epochs=1"), data, hooks=[hook, Compare()])
    assert not teacher.training
    for ours, expected in losses:
        assert ours == pytest.approx(expected, rel=1e-5)


def test_a_teacher_that_timm_does_not_know(data, recipe, make_model) -> None:
    chosen = recipe("plain", "distillation_teacher=no_such_net").with_changes("distillation=hard")
    with pytest.raises(UserError, match="distillation teacher no_such_net cannot be loaded"):
        run(make_model(), chosen, data)


class Poison(Hook):
    """Make the loss NaN at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_loss(self, run, batch, loss):
        return loss * math.nan if run.step + 1 == self.step else loss


def test_nan_stops_with_step_rate_and_the_last_good_checkpoint(data, recipe, make_model, tmp_path) -> None:
    options = Options(device="cpu", checkpoint_steps=3)
    chosen = recipe("plain")
    with pytest.raises(UserError) as error:
        run(make_model(), chosen, data, hooks=[Poison(11)], folder=tmp_path, options=options)
    text = str(error.value)
    assert "The loss is nan at step 11 of 18 (epoch 2, learning rate 0.0375)" in text
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / 'step-000000009.pt'}" in text
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-000000006.pt",
        "step-000000009.pt",
    ]
    with pytest.raises(UserError, match="no checkpoint had been written yet"):
        run(make_model(), chosen, data, hooks=[Poison(2)])


def test_parameters_that_are_not_finite_are_never_saved(data, recipe, make_model, tmp_path) -> None:
    class Ruin(Hook):
        def on_step(self, run):
            if run.step == 4:
                run.plain_model.head.bias.data[0] = math.inf

    options = Options(device="cpu", checkpoint_steps=2)
    with pytest.raises(UserError, match=r"A parameter is no longer finite at step 4 .*step-000000002\.pt"):
        run(make_model(), recipe("plain"), data, hooks=[Ruin()], folder=tmp_path, options=options)


def test_wrong_class_count_and_device(data, recipe, make_model) -> None:
    with pytest.raises(UserError, match=r"3 classes, but the recipe is written for 1000.*--set num_classes=3"):
        run(make_model(), recipe("plain", "num_classes=1000"), data)
    with pytest.raises(UserError, match="There is no device gpu"):
        run(make_model(), recipe("plain"), data, options=Options(device="gpu"))
    with pytest.raises(UserError, match="float16, which needs a GPU"):
        run(make_model(), recipe("plain", "precision=float16"), data)
    with pytest.raises(UserError, match=r"timm has no optimizer adamv.* Did you mean"):
        run(make_model(), recipe("plain", "optimizer=adamv"), data)
    with pytest.raises(UserError, match=r"timm cannot make the optimizer sgd of this recipe .*momentum"):
        run(make_model(), recipe("plain", "optimizer=sgd", "momentum=0"), data)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb", "adamp"])
def test_timms_optimizers_train(data, recipe, make_model, optimizer) -> None:
    result = run(make_model(), recipe("plain", f"optimizer={optimizer}", "epochs=1", "learning_rate=0.001"), data)
    assert math.isfinite(result.metrics["loss"])


def test_bfloat16_trains_and_leaves_the_model_as_it_was(data, recipe, make_model) -> None:
    model = make_model(dropout=0)
    result = run(model, recipe("plain", "precision=bfloat16", "epochs=8"), data)
    assert result.metrics["top1"] > 90
    assert model.head.weight.dtype == torch.float32
    assert "forward" not in vars(model)
    assert model(torch.rand(2, 1, 8, 8)).dtype == torch.float32


def test_compiled_gives_the_same_update(data, recipe, make_model) -> None:
    plain, compiled = make_model(dropout=0), make_model(dropout=0)
    run(plain, recipe("plain", "epochs=1"), data)
    run(compiled, recipe("plain", "epochs=1"), data, options=Options(device="cpu", compile="aot_eager"))
    assert far(plain, compiled) < 1e-5


def test_a_users_configuration_of_accelerate_changes_nothing(data, recipe, make_model, monkeypatch) -> None:
    plain, configured = make_model(dropout=0), make_model(dropout=0)
    run(plain, recipe("plain", "epochs=1"), data)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "AOT_EAGER")
    run(configured, recipe("plain", "epochs=1"), data)
    assert same(plain, configured)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="configured for DEEPSPEED, which would change the training"):
        run(make_model(), recipe("plain"), data)


def test_what_cannot_be_compiled_is_one_sentence(data, recipe, make_model) -> None:
    with pytest.raises(UserError, match=r"torch.compile has no backend indcutor\. Did you mean inductor\?"):
        run(make_model(), recipe("plain"), data, options=Options(device="cpu", compile="indcutor"))
    with pytest.raises(UserError, match=r"cannot compile the model with the backend tvm \(.*\): leave out --compile"):
        run(make_model(), recipe("plain"), data, options=Options(device="cpu", compile="tvm"))


def test_the_schedule_warms_up_and_ends_at_its_minimum(data, recipe, make_model) -> None:
    rates = []

    class Record(Hook):
        def on_step(self, run):
            rates.append(run.optimizer.param_groups[0]["lr"])

    chosen = recipe("tiny", "epochs=2", "warmup_epochs=0.5", "cooldown_epochs=1", "min_learning_rate=0.001")
    run(make_model(), chosen, data, hooks=[Record()])
    assert rates[0] == pytest.approx(1e-4)
    assert rates[3] == max(rates)
    assert rates[12:] == pytest.approx([0.001] * 6)
    assert len(rates) == 18


def test_a_rate_that_is_set_at_the_end_of_an_epoch_is_that_epochs(data, recipe, make_model) -> None:
    """As a script's loop over epochs with ``scheduler.step(epoch)`` at its end; a resume in an epoch finds the rate."""
    chosen = recipe("tiny", "epochs=4", "warmup_epochs=1", "schedule_unit=previous_epoch")
    steps = 6
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=chosen.rate("learning_rate"))
    script = Schedule(optimizer, chosen, steps).scheduler
    expected = []
    for epoch in range(4):
        expected += [optimizer.param_groups[0]["lr"]] * steps
        script.step(epoch)
    ours = Schedule(torch.optim.SGD([parameter], lr=chosen.rate("learning_rate")), chosen, steps)
    assert [ours.set_rate(step) for step in range(4 * steps)] == pytest.approx(expected)
    assert expected[0] == expected[steps] < expected[2 * steps]
    resumed = Schedule(torch.optim.SGD([parameter], lr=chosen.rate("learning_rate")), chosen, steps)
    resumed.restore(15)
    assert resumed.set_rate(15) == pytest.approx(expected[15])


def test_layer_decay_gives_lower_layers_lower_rates(data, recipe) -> None:
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, num_classes=3, embed_dim=12, depth=2, num_heads=1
    )
    seen = {}

    class Record(Hook):
        def start(self, run):
            run.schedule.set_rate(0)
            for group in run.optimizer.param_groups:
                for parameter in group["params"]:
                    seen[id(parameter)] = group["lr"]

    run(model, recipe("plain", "layer_decay=0.5", "epochs=1", "epoch_images=8"), data, hooks=[Record()])
    rates = [seen[id(p)] for p in (model.patch_embed.proj.weight, model.blocks[0].attn.proj.weight, model.head.weight)]
    assert rates == pytest.approx([0.05 / 8, 0.05 / 4, 0.05])


def test_more_than_five_classes_have_top5(recipe) -> None:
    images = torch.zeros(16, 1, 8, 8, dtype=torch.uint8)
    labels = torch.arange(16) % 8
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    chosen = recipe("plain", "num_classes=8", "epochs=1", "learning_rate=0")
    model[1].bias.data = -torch.arange(8.0)  # always ranks the classes 0, 1, 2, ...
    model[1].weight.data.zero_()
    result = run(model, chosen, TensorData(images, labels, images, labels))
    assert result.metrics["top1"] == pytest.approx(12.5)
    assert result.metrics["top5"] == pytest.approx(62.5)


def test_batch_keeps_the_labels_before_mixing(data, recipe, make_model) -> None:
    seen: list[Batch] = []

    class Record(Hook):
        def on_batch(self, run, batch):
            seen.append(batch)

    run(make_model(), recipe("tiny", "epochs=1"), data, hooks=[Record()])
    assert all(batch.labels.shape == (8,) and batch.targets.shape == (8, 3) for batch in seen)
    assert all(torch.allclose(batch.targets.sum(1), torch.ones(8)) for batch in seen)


@pytest.mark.parametrize("train_only", [True, False])
def test_a_model_without_bare_logits_is_one_sentence(make_model, recipe, data, train_only) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model()

        def forward(self, images):
            logits = self.model(images)
            return {"logits": logits} if self.training == train_only else logits

    with pytest.raises(UserError, match=r"the model returns a dict .* wrap it in a module that returns its logits"):
        train(Wrapped(), recipe(), data, options=Options(device="cpu"))
