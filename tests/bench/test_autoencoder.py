"""The bench's own textures, its autoencoder, and what it keeps in the data folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from common import bench
from common.bench import autoencoder as module
from common.bench import stored as kept
from common.bench.autoencoder import Autoencoder, autoencoder, restyle, to_bytes, train
from common.bench.textures import textures


def test_textures_are_random_and_repeatable() -> None:
    made, again = (textures(40, 28, torch.Generator().manual_seed(3)) for _ in range(2))
    assert made.shape == (40, 28, 28)
    assert made.dtype == torch.uint8
    assert torch.equal(made, again)
    contrast = made.float().std(dim=(1, 2))
    assert contrast.min() > 5
    assert contrast.std() > 10
    assert made.float().mean(dim=(1, 2)).std() > 15


def test_the_network_reproduces_what_it_learnt() -> None:
    network = autoencoder()
    assert not network.training
    images = bench.test_set(True).clean[0, :, :1].float() / 255
    error = (network(images) - images).square().mean()
    assert error < 0.02
    assert error < 0.1 * images.var()
    assert network.encode(images).shape == (50, 32, 14, 14)


def test_training_is_repeatable_and_leaves_others_draws_alone() -> None:
    networks = [Autoencoder(), Autoencoder()]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (train(network, steps=3) for network in networks)
    assert torch.equal(torch.rand(1), expected)
    assert first == second
    for ours, theirs in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_restyled_images_follow_the_style_and_keep_the_shape() -> None:
    images = bench.test_set(True).clean[0, :, 0]
    dark, bright = torch.full((50, 28, 28), 30, dtype=torch.uint8), torch.full((50, 28, 28), 200, dtype=torch.uint8)
    styles = [base + (torch.arange(28) % 4 < 2) * torch.tensor(40, dtype=torch.uint8) for base in (dark, bright)]
    low, high = (restyle(images, one, torch.Generator().manual_seed(0)).float() for one in styles)
    assert low.mean() + 100 < high.mean()
    assert torch.equal(low, restyle(images, styles[0], torch.Generator().manual_seed(0)).float())
    garment = images > 128
    assert (low[garment].mean() - low[images == 0].mean()) > 10


def test_bytes_are_clipped_and_rounded() -> None:
    assert to_bytes(torch.tensor([-1.0, 0.0, 0.5, 2.0])).tolist() == [0, 0, 128, 255]


def _share(number: int) -> Tensor:
    return torch.full((2, 3), number, dtype=torch.uint8)


def test_what_is_made_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "data_folder", lambda: tmp_path)
    monkeypatch.setattr(kept, "side_by_side", lambda function, arguments, _: map(function, arguments))
    made = kept.stored("numbers", "1", _share, 3)
    assert made[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    monkeypatch.setattr(kept, "side_by_side", lambda *_: pytest.fail("it is there"))
    assert torch.equal(kept.stored("numbers", "1", _share, 3), made)


def test_other_code_has_another_check_sum(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("1")
    first = kept.check_sum(str(source), module.__file__)
    source.write_text("2")
    assert first != kept.check_sum(str(source), module.__file__)
    assert len(first) == 16
