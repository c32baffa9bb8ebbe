"""Several views of an image, random resized crops in memory, gathering, and layer-wise rates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import functional as transforms

from common.errors import UserError
from common.training.crops import resized_crops, sample_boxes
from common.training.data import make_plan
from common.training.gathering import gather, world
from common.training.hooks import Hook
from common.training.images import ImageData, Source
from common.training.loop import train
from common.training.optimisation import make_optimizer
from common.training.options import Options
from tests.training.test_distributed import join

CROPS = ("train_crop=random_resized", "crop_scale=[0.2, 1.0]", "crop_ratio=[0.75, 1.3333333333333333]")


def plan(recipe, *, rank: int = 0, world: int = 1, views: int = 2):
    return make_plan(recipe, seed=0, device_batch=0, rank=rank, world=world, device=torch.device("cpu"), views=views)


def test_boxes_lie_in_the_image_and_have_the_stated_areas() -> None:
    draws = torch.Generator().manual_seed(0)
    top, left, height, width = sample_boxes(2000, 40, 60, (0.2, 0.6), (0.75, 4 / 3), draws).unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert (top + height).max() <= 40
    assert (left + width).max() <= 60
    share = height * width / 2400
    assert share.min() > 0.18
    assert share.max() < 0.62
    assert abs(share.mean() - 0.4) < 0.02
    whole = sample_boxes(3, 10, 40, (1.0, 1.0), (0.75, 4 / 3), draws)  # nothing of such a shape fits
    assert whole.tolist() == [[0, 13, 10, 13]] * 3


def test_a_crop_is_what_torchvision_cuts_and_resizes() -> None:
    draws = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (6, 3, 20, 28), generator=draws, dtype=torch.uint8)
    boxes = sample_boxes(6, 20, 28, (0.1, 1.0), (0.5, 2.0), draws)
    ours = resized_crops(images, boxes, 16)
    for image, box, crop in zip(images.float(), boxes.tolist(), ours, strict=True):
        expected = transforms.resized_crop(image, *box, [16, 16], antialias=False)
        assert (crop.float() - expected).abs().max() <= 0.51  # rounded to whole numbers


def test_views_differ_and_do_not_depend_on_the_number_of_processes(data, recipe) -> None:
    chosen = recipe("plain", *CROPS)
    ((single, labels), *_) = data.training_batches(chosen, plan(chosen), 0, 0)
    assert single.shape == (chosen.total_batch, 2, 1, 8, 8)
    assert not torch.equal(single[:, 0], single[:, 1])
    for rank in range(2):
        ((part, part_labels), *_) = data.training_batches(chosen, plan(chosen, rank=rank, world=2), 0, 0)
        assert torch.equal(part, single[rank::2])
        assert torch.equal(part_labels, labels[rank::2])


def test_views_of_images_from_files(recipe, tmp_path) -> None:
    for part in ("train", "val"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            noise = np.random.default_rng(ord(name)).integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
            for index, pixels in enumerate(noise):
                Image.fromarray(pixels).save(tmp_path / part / name / f"{index}.png")
    chosen = recipe("plain", *CROPS, "total_batch=4", "epoch_images=0", "num_classes=2")
    files = ImageData(Source(tmp_path), chosen, workers=0)
    ((images, _), *_) = files.training_batches(chosen, plan(chosen), 0, 0)
    assert images.shape == (4, 2, len(chosen.mean), 8, 8)
    assert not torch.equal(images[:, 0], images[:, 1])
    ((images, _), *_) = files.validation_batches(chosen, plan(chosen))
    assert images.shape == (8, len(chosen.mean), 8, 8)


def test_views_are_not_mixed(recipe) -> None:
    with pytest.raises(UserError, match="neither mixed nor erased: set mix_probability=0"):
        plan(recipe("plain", "mixup=0.2", "mix_probability=1.0"))


def test_crops_in_memory_name_their_interpolations(data, recipe) -> None:
    with pytest.raises(UserError, match="bilinear or bicubic interpolation, not by lanczos"):
        data.steps_per_epoch(recipe("plain", *CROPS, "interpolation=lanczos"))


def test_a_hook_prepares_the_model_before_its_optimizer_is_made(data, recipe) -> None:
    class Freeze(Hook):
        def on_model(self, run, model):
            model[1].requires_grad_(False)

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 3))
    before = [parameter.clone() for parameter in model.parameters()]
    train(model, recipe("plain", "epochs=1"), data, hooks=[Freeze()], options=Options(device="cpu"))
    assert [torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)] == [True, True, False, False]


def test_gathered_gradients_are_those_of_one_process(processes, process_group, tmp_path) -> None:
    values = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))

    def loss(own: torch.Tensor, all_rows: torch.Tensor, rows: slice) -> torch.Tensor:
        return ((own @ all_rows.T).tanh() * weight[rows]).mean()

    def child(rank: int) -> None:
        join(rank)
        dist.init_process_group("gloo")
        assert world() == (rank, 2)
        rows = slice(3 * rank, 3 * rank + 3)
        own = values[rows].clone().requires_grad_()
        loss(own, gather(own), rows).backward()
        torch.save(own.grad, tmp_path / f"{rank}.pt")

    assert processes(child, 2, **process_group(2)) == [0, 0]
    whole = values.clone().requires_grad_()
    loss(whole, gather(whole), slice(None)).backward()
    ours = torch.cat([torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]) / 2  # averaged as DDP does
    assert (ours - whole.grad).abs().max() < 1e-7


@pytest.mark.parametrize("decay", ["0.0", "0.1"])
def test_lars_adapts_weights_and_leaves_biases_alone(recipe, decay) -> None:
    class Net(nn.Sequential):
        def no_layer_adaptation(self):
            return {"1.weight"}

    torch.manual_seed(0)
    net = Net(nn.Linear(5, 4), nn.Linear(4, 2))
    chosen = recipe("plain", "optimizer=lars", f"weight_decay={decay}", "momentum=0.0", "learning_rate=0.5")
    optimizer = make_optimizer(net, chosen)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.full_like(p, 0.3)
    optimizer.step()
    rate = optimizer.param_groups[0]["lr"]
    for name, p in net.named_parameters():
        moved = before[name] - p.detach()
        if name == "0.weight":
            weight, gradient = before[name], torch.full_like(p, 0.3)
            ratio = 0.001 * weight.norm() / (gradient.norm() + float(decay) * weight.norm())
            assert torch.allclose(moved, rate * ratio * (gradient + float(decay) * weight), rtol=1e-3, atol=1e-8)
        else:
            assert torch.allclose(moved, torch.full_like(moved, 0.3 * rate), rtol=1e-4), name
    with pytest.raises(UserError, match="set layer_decay=1"):
        make_optimizer(net, recipe("plain", "optimizer=lars", "layer_decay=0.5"))
