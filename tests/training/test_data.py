from __future__ import annotations

import pytest
import torch
from timm.data.distributed_sampler import RepeatAugSampler

from common.errors import UserError
from common.training.data import TensorData, augment, epoch_order, epoch_steps, make_plan, validation_order
from common.training.images import _share_out
from common.training.preparation import Preparation
from common.training.randomness import derive_seed, preserved_global_state, seed_global

CPU = torch.device("cpu")


def plan_of(recipe, rank=0, world=1, device_batch=0):
    return make_plan(recipe, seed=3, device_batch=device_batch, rank=rank, world=world, device=CPU)


def test_seeds_differ_by_each_part() -> None:
    seeds = {
        derive_seed(0, "order", 1, 2),
        derive_seed(1, "order", 1, 2),
        derive_seed(0, "step", 1, 2),
        derive_seed(0, "order", 2, 1),
        derive_seed(0, "order", 12),
    }
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with preserved_global_state():
        seed_global(9, "anything")
        torch.rand(3)
    assert torch.equal(torch.rand(1), expected)


def test_an_epoch_shows_each_image_once_in_another_order(recipe) -> None:
    first, second = (epoch_order(48, recipe(), 0, epoch) for epoch in (0, 1))
    assert sorted(first.tolist()) == list(range(48))
    assert not torch.equal(first, second)
    assert torch.equal(first, epoch_order(48, recipe(), 0, 0))
    assert len(epoch_order(50, recipe(), 0, 0)) == 48  # the incomplete batch is left out
    assert len(epoch_order(48, recipe("tiny", "epoch_images=20"), 0, 0)) == 16


def test_repeated_augmentation_is_timms(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given one permutation, the processes' shares are those of timm's sampler, of which DeiT's is the origin."""
    permutation = torch.randperm(48)
    monkeypatch.setattr(torch, "randperm", lambda *args, **kwargs: permutation)
    order = epoch_order(48, recipe("tiny", "repeated_augmentation=3"), 0, 0)
    for rank in range(2):
        sampler = RepeatAugSampler(
            range(48), num_replicas=2, rank=rank, num_repeats=3, selected_round=0, selected_ratio=2
        )
        assert order[rank::2].tolist() == [int(index) for index in sampler]


@pytest.mark.parametrize(("world", "device_batch", "accumulation"), [(1, 0, 1), (1, 2, 4), (2, 0, 1), (2, 2, 2)])
def test_processes_and_accumulation_share_the_same_steps(data, recipe, world, device_batch, accumulation) -> None:
    """Order and augmentation of a step's images do not depend on how they are shared out."""
    chosen = recipe()
    whole = list(data.training_batches(chosen, plan_of(chosen), 1, 0))
    plans = [plan_of(chosen, rank, world, device_batch) for rank in range(world)]
    assert plans[0].accumulation == accumulation
    shares = [list(data.training_batches(chosen, plan, 1, 2)) for plan in plans]
    images = torch.stack([torch.cat([part for part, _ in share]) for share in shares], dim=1).flatten(0, 1)
    labels = torch.stack([torch.cat([part for _, part in share]) for share in shares], dim=1).flatten()
    assert torch.equal(images, torch.cat([part for part, _ in whole[2:]]))
    assert torch.equal(labels, torch.cat([part for _, part in whole[2:]]))


def test_indexed_passes_carry_their_position(recipe) -> None:
    order = torch.arange(100, 148)
    passes = list(_share_out(order, plan_of(recipe(), rank=1, world=2, device_batch=2), epoch=4, first_step=1))
    assert passes[0] == [(109, 4, 9), (111, 4, 11)]
    assert sum(map(len, passes)) == 20


def test_validation_pads_to_equal_shares(data, recipe) -> None:
    shares = [validation_order(5, plan_of(recipe(), rank, 2)) for rank in range(2)]
    assert [share.tolist() for share in shares] == [[0, 2, 4], [1, 3, -1]]
    labels = [next(iter(data.validation_batches(recipe(), plan_of(recipe(), rank, 2))))[1] for rank in range(2)]
    assert sorted(torch.cat(labels).tolist()) == sorted([*data.validation[1].tolist(), -1])


def test_padded_crop_and_flip(recipe) -> None:
    """Every augmented image is one of the shifted and flipped versions of its original, and many occur."""
    chosen = recipe("tiny", "total_batch=64")
    image = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)
    padded = torch.nn.functional.pad(image, (1,) * 4)[0, 0]
    versions = {
        tuple(flipped.flatten().tolist())
        for row in range(3)
        for column in range(3)
        for window in [padded[row : row + 8, column : column + 8]]
        for flipped in (window, window.flip(1))
    }
    augmented = augment(image.expand(64, 1, 8, 8), chosen, plan_of(chosen), 0, 0)
    found = {tuple(one.flatten().tolist()) for one in augmented}
    assert found <= versions
    assert len(found) > 12
    assert torch.equal(augmented, augment(image.expand(64, 1, 8, 8), chosen, plan_of(chosen), 0, 0))
    off = recipe("plain")
    assert augment(image, off, plan_of(off), 0, 0) is image


def test_normalisation(recipe) -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert Preparation(recipe("plain"), CPU).normalise(images).flatten().tolist() == [-2.0, 2.0]
    assert images.flatten().tolist() == [0, 255]


def test_what_does_not_fit_is_one_sentence(data, recipe) -> None:
    with pytest.raises(UserError, match="total batch of 8 is not a multiple of 3 images per device x 1 devices"):
        plan_of(recipe("plain"), device_batch=3)
    with pytest.raises(UserError, match="1 images per device must be an even number"):
        plan_of(recipe(), device_batch=1)
    with pytest.raises(UserError, match="fewer than the total batch of 8"):
        epoch_steps(5, recipe())
    with pytest.raises(UserError, match="epoch_images is 90, but the training set holds 48"):
        epoch_steps(48, recipe("tiny", "epoch_images=90"))
    with pytest.raises(UserError, match="say --set input_size=8"):
        data.steps_per_epoch(recipe("tiny", "input_size=28"))
    with pytest.raises(UserError, match="auto_augment"):
        data.steps_per_epoch(recipe("tiny", "auto_augment=rand-m9"))
    with pytest.raises(UserError, match=r"uint8 \(N, C, H, W\)"):
        TensorData(torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.zeros(2, 1, 8, 8), torch.zeros(2))
