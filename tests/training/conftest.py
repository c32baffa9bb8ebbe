from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.training.data import TensorData
from common.training.recipe import Recipe, load_recipe

RECIPES = Path(__file__).with_name("recipe.toml")


class TinyNet(nn.Module):
    """A convolution, batch norm, dropout and a classifier: every kind of state and of randomness that a run has."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(36, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.stem(images)).relu().flatten(1)))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on several threads, and a forked child has one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """Load a setting of the tests' recipes with changes."""

    def load(setting: str = "tiny", *changes: str) -> Recipe:
        return load_recipe(RECIPES, setting).with_changes(*changes)

    return load


@pytest.fixture
def make_model() -> Callable[..., TinyNet]:
    def make(seed: int = 0, **settings: float) -> TinyNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TinyNet(**settings)

    return make


@pytest.fixture(scope="session")
def data() -> TensorData:
    """48 + 15 images of 8 x 8 whose brightness tells the class."""
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % 3
        noise = torch.randint(0, 60, (count, 1, 8, 8), generator=generator)
        return (noise + 80 * labels[:, None, None, None]).to(torch.uint8), labels

    return TensorData(*part(48), *part(15))
