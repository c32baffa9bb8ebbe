"""Preprocessing: timm's own evaluation, stated in words."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from common.data.preprocessing import Preprocessing
from common.errors import UserError
from common.shapes import shapes_only


def image(height, width):
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def untrained(name, **options):
    with shapes_only():
        return timm.create_model(name, **options)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("deit_tiny_patch16_224", "center"),
        ("convnext_nano", "center"),
        ("tf_efficientnetv2_b3.in21k_ft_in1k", "squash"),
    ],
)
def test_it_is_what_timm_does(name, mode):
    model = untrained(name)
    preprocessing = Preprocessing.of(model)
    assert preprocessing.mode == mode
    picture = image(300, 500)
    theirs = create_transform(**resolve_data_config({}, model=model), is_training=False)(picture)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    ours = preprocessing.transform()(picture)
    assert ours.dtype == torch.uint8
    torch.testing.assert_close((ours / 255 - mean) / std, theirs)


def test_it_is_printed():
    assert str(Preprocessing()) == ("resize 256 bicubic crop 224 mean 0.485 0.456 0.406 std 0.229 0.224 0.225")
    rounded_down = Preprocessing(size=384, crop=0.9, mode="squash", interpolation="bilinear")
    assert str(rounded_down).startswith("resize 426 bilinear squash crop 384 ")


def test_another_input_size():
    assert Preprocessing.of(untrained("deit_tiny_patch16_224", img_size=160), size=160).size == 160


def test_images_of_the_input_size_are_left_alone():
    picture = image(32, 32)
    same = Preprocessing(size=32, crop=1.0).transform()(picture)
    assert torch.equal(same, torch.from_numpy(np.array(picture)).permute(2, 0, 1))


def test_inputs_that_are_not_square():
    model = untrained("deit_tiny_patch16_224")
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 224, 192)}
    with pytest.raises(UserError, match="VisionTransformer takes 224 x 192 images"):
        Preprocessing.of(model)
