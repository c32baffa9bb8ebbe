"""The bench's networks with the mask of OAMixer, and labels of patches from an image's third channel."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import bench
from common.bench import hosts
from common.training.recipe import load_recipe
from papers.oamixer import scenes
from papers.oamixer.model import ObjectAwareConvMixer, ObjectAwareMixer, ObjectAwareViT

GRID = hosts.SIDE // hosts.PATCH
VIT, MIXER, CONVMIXER = "vit_mini.scenes", "mixer_mini.scenes", "convmixer_mini.scenes"
AWARE = "+oamixer"


class Labelled(nn.Module):
    """Gives a network images and the labels of their patches, which come as the third channel of `scenes`.

    The label of a patch is the share of it that the garment covers, and the rest.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        recipe = load_recipe(bench.RECIPE, "embedded")
        self.mean, self.std = recipe.mean[0], recipe.std[0]

    def labels(self, x: Tensor) -> Tensor:
        """Of normalised images (B, 3, H, W), distributions (B, N, 2) over garment and scene."""
        mask = (x[:, 2:] * self.std + self.mean).clamp(0, 1)
        covered = F.adaptive_avg_pool2d(mask, GRID).flatten(1)
        return torch.stack((covered, 1 - covered), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of normalised images (B, 3, H, W)."""
        return self.network(x[:, :1].expand(-1, 3, -1, -1), self.labels(x))


def vit(form: str) -> nn.Module:
    """``vit_mini``, with a mask or without."""
    return Labelled(hosts.vit_mini(kind=ObjectAwareViT, form=form))


def mixer(form: str) -> nn.Module:
    """``mixer_mini``, with a mask or without."""
    network = hosts.mixer_mini()
    ObjectAwareMixer.convert(network, form)
    return Labelled(network)


def convmixer(form: str) -> nn.Module:
    """A ConvMixer of 49 places of 48 channels and three blocks, with the bench's stem."""
    network: Any = ObjectAwareConvMixer(
        dim=48, depth=3, kernel_size=5, patch_size=hosts.PATCH, num_classes=hosts.CLASSES, form=form
    )
    network.stem = nn.Sequential(
        *hosts.convolution(3, 16, stride=2), nn.ReLU(inplace=True), *hosts.convolution(16, 32, stride=2),
        nn.ReLU(inplace=True), nn.Conv2d(32, 48, 3, padding=1),
    )  # fmt: skip
    hosts.initialise(network)
    return Labelled(network)


def contenders() -> list[bench.Contender]:
    """Three networks on garments in scenes, each without the mask and with it."""
    builds = {VIT: vit, MIXER: mixer, CONVMIXER: convmixer}
    return [
        bench.Contender(name + suffix, partial(build, form), data=scenes.training_data)
        for name, build in builds.items()
        for suffix, form in (("", ""), (AWARE, "exp"))
    ]


def scales(model: Any) -> list[float]:
    """The learned kappa of each block."""
    return [float(value) for name, value in model.state_dict().items() if name.endswith("mask_scale")]
