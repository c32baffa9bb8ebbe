"""Modules that are built for their shapes alone."""

from __future__ import annotations

import timm
import torch
from torch import nn

from common.shapes import shapes_only


def test_shapes_are_those_of_a_built_model() -> None:
    with shapes_only():
        model = timm.create_model("vit_tiny_patch16_224")
    built = timm.create_model("vit_tiny_patch16_224").state_dict()
    assert {name: value.shape for name, value in model.state_dict().items()} == {n: v.shape for n, v in built.items()}
    assert all(value.is_meta for value in model.state_dict().values())
    assert all(p.requires_grad for p in model.parameters())


def test_tensors_elsewhere_are_filled() -> None:
    with shapes_only():
        values = torch.zeros(3, device="cpu").add_(2)
        nn.init.ones_(weight := torch.zeros(2, device="cpu"))
    assert values.tolist() == [2, 2, 2]
    assert weight.tolist() == [1, 1]


def test_afterwards_modules_are_built_as_before() -> None:
    with shapes_only():
        pass
    layer = nn.Linear(4, 4)
    assert not layer.weight.is_meta
    assert layer.weight.abs().sum() > 0
