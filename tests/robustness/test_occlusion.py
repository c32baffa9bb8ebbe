"""Occlusion and shuffling: parity with the released evaluation and properties."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import UserError
from common.robustness.attacks import patch_mask
from common.robustness.corruptions import corrupt
from common.robustness.occlusion import drop_tiles, random_drop, salient_tiles, shuffle_tiles
from common.robustness.patch_corruption import corrupt_patch

FIXTURES = Path(__file__).parent / "fixtures" / "occlusion"


def recorded(name: str) -> tuple[dict, dict[str, Tensor]]:
    with np.load(FIXTURES / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    return json.loads((FIXTURES / f"{name}.json").read_text()), arrays


@pytest.fixture
def images() -> Tensor:
    return 0.1 + 0.9 * torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", [0, 1, 2])
def test_random_drop_equals_release(case: int, images: Tensor) -> None:
    notes, arrays = recorded("random_drop")
    settings = notes["cases"][case]
    offset = 8 if settings["offset"] else 0
    result = random_drop(
        images, settings["count"], grid=settings["grid"], offset=offset, draws={"dropped": arrays[f"dropped_{case}"]}
    )
    assert torch.equal(result, images * arrays[f"kept_mask_{case}"])


@pytest.mark.parametrize("case", [0, 1, 2, 3])
def test_salient_drop_equals_release(case: int) -> None:
    notes, arrays = recorded("salient_drop")
    foreground = salient_tiles(arrays["attention"], notes["lambdas"][case])
    assert torch.equal((~foreground).view(-1, 14, 14), arrays[f"kept_drop_salient_{case}"].bool())
    assert torch.equal(foreground.view(-1, 14, 14), arrays[f"kept_drop_nonsalient_{case}"].bool())


def test_salient_drop_blackens_those_tiles(images: Tensor) -> None:
    attention = torch.rand(2, 196, generator=torch.Generator().manual_seed(0))
    salient = salient_tiles(attention, 0.5)
    without, only = drop_tiles(images, salient), drop_tiles(images, ~salient)
    assert torch.equal(without + only, images)
    black = (without == 0).all(1)[:, ::16, ::16].flatten(1)
    assert torch.equal(black, salient)


@pytest.mark.parametrize("grid", [(2, 2), (4, 4), (14, 14)])
def test_shuffle_equals_release(grid: tuple[int, int]) -> None:
    _, arrays = recorded("shuffle")
    name = f"{grid[0]}x{grid[1]}"
    result = shuffle_tiles(arrays["x"], grid=grid, draws={"permutation": arrays[f"permutation_{name}"]})
    assert torch.equal(result, arrays[f"out_{name}"])


def test_shuffle_and_its_inverse_give_the_image(images: Tensor) -> None:
    permutation = torch.randperm(7 * 4, generator=torch.Generator().manual_seed(0))
    shuffled = shuffle_tiles(images, grid=(7, 4), draws={"permutation": permutation})
    assert not torch.equal(shuffled, images)
    assert torch.equal(shuffle_tiles(shuffled, grid=(7, 4), draws={"permutation": permutation.argsort()}), images)


@pytest.mark.parametrize("count", [0, 19, 196])
def test_drop_removes_exactly_so_many_tiles(count: int, images: Tensor) -> None:
    result = random_drop(images, count, generator=torch.Generator().manual_seed(0))
    dropped = (result == 0).all(1)[:, ::16, ::16].sum((1, 2))
    assert dropped.tolist() == [count, count]
    assert (result == 0).sum().item() == 2 * 3 * 256 * count


def test_tiles_of_a_grid_that_does_not_divide_the_image_differ_by_a_pixel() -> None:
    image = torch.ones(1, 3, 30, 23)
    for tile in range(14 * 4):
        dropped = torch.zeros(1, 14 * 4, dtype=torch.bool)
        dropped[0, tile] = True
        black = (drop_tiles(image, dropped, grid=(14, 4))[0, 0] == 0).nonzero()
        height, width = (black.amax(0) - black.amin(0) + 1).tolist()
        assert height in (2, 3)
        assert width in (5, 6)
        assert len(black) == height * width
    assert (random_drop(image, 56, grid=(14, 4), seeds=[0]) == 0).all()


def test_randomness_of_batch_and_of_each_image(images: Tensor) -> None:
    whole = random_drop(images, 98, generator=torch.Generator().manual_seed(0))
    assert torch.equal(whole[0] == 0, whole[1] == 0)
    each = random_drop(images, 98, seeds=[4, 5])
    assert not torch.equal(each[0] == 0, each[1] == 0)
    assert torch.equal(each[1:], random_drop(images[1:], 98, seeds=[5]))
    assert torch.equal(shuffle_tiles(images, grid=14, seeds=[4, 5])[1:], shuffle_tiles(images[1:], grid=14, seeds=[5]))


def test_user_errors(images: Tensor) -> None:
    with pytest.raises(UserError, match="does not divide"):
        shuffle_tiles(images, grid=15, seeds=[0, 1])
    with pytest.raises(UserError, match="does not fit"):
        random_drop(images, 1, grid=225, seeds=[0, 1])
    for change in (partial(random_drop, images, 3), partial(shuffle_tiles, images, grid=14)):
        with pytest.raises(UserError, match="1 seeds for 2 images"):
            change(seeds=[0])
    with pytest.raises(UserError, match=r"'dropped' have shape \(4,\) where \(3,\) or \(2, 3\) is needed"):
        random_drop(images, 3, draws={"dropped": torch.arange(4)})
    with pytest.raises(UserError, match="cannot be dropped"):
        random_drop(images, 197, seeds=[0, 1])
    with pytest.raises(UserError, match="generator"):
        shuffle_tiles(images, grid=14)
    with pytest.raises(UserError, match="choice of tiles"):
        drop_tiles(images, torch.zeros(2, 14, dtype=torch.bool))


def test_corrupted_patch_is_cut_from_the_corrupted_image(images: Tensor) -> None:
    pixels = (images * 255).byte()
    whole = corrupt(pixels, "gaussian_noise", 5, seeds=[1, 2])
    result = corrupt_patch(pixels, "gaussian_noise", 5, size=16, seeds=[1, 2])
    mask = patch_mask(images, 16, seeds=[1, 2]).bool()
    assert mask.flatten(1).sum(1).tolist() == [256, 256]
    assert torch.equal(result, torch.where(mask, whole, pixels))
    assert not torch.equal(result, pixels)
    draws = {"position01": torch.tensor([[0.0, 0.0], [0.99, 0.99]]), "fog_uniform": torch.rand(65535)}
    given = corrupt_patch(pixels, "fog", 5, size=16, draws=draws)
    assert (given != pixels).any(1)[0].nonzero().amax(0).tolist() == [15, 15]
    assert (given != pixels).any(1)[1].nonzero().amin(0).tolist() == [208, 208]
