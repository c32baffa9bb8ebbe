"""Every config builds its model, and printed sizes of detectors are met."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import downstream  # noqa: F401  (before anything of OpenMMLab)
import papers  # noqa: F401  (registers the models)
from downstream.backbone import TimmFeatures, find_backbones
from downstream.training import CONFIGS, Job, build_model, prepare

_OWN = ("shared", "embedded")
ALL = sorted(path for path in CONFIGS.glob("*/*.py") if path.parent.name not in _OWN)

#: Printed parameters in millions: github.com/microsoft/Swin-Transformer README.md @f82860b, COCO and ADE20K tables.
PRINTED = {
    "swin/mask-rcnn_3x_coco": 48,
    "swin/cascade-mask-rcnn_3x_coco": 86,
    "swin/upernet_160k_ade20k": 60,
}


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", ALL, ids=_name)
def test_a_config_builds_its_model(path: Path) -> None:
    config = prepare(Job(config=path, data=Path("data"), folder=Path("run/training")))
    with torch.device("meta"):
        model = build_model(config)
    assert [type(each) for each in find_backbones(model).values()] == [TimmFeatures]
    assert config.optim_wrapper.constructor == "LayerDecay"
    if _name(path) in PRINTED:
        millions = sum(value.numel() for value in model.parameters()) / 1e6
        assert round(millions) == PRINTED[_name(path)]


@pytest.mark.parametrize("model", ["vars_s_rvt_small", "vars_sd_rvt_small", "rvt_small_plus", "performer_deit_tiny"])
def test_every_attention_fits_the_same_config(model: str) -> None:
    config = prepare(
        Job(config=CONFIGS / "vars" / "upernet_160k_ade20k.py", data=Path("data"), folder=Path("run/x"), model=model)
    )
    with torch.device("meta"):
        build_model(config)


def test_channels_are_those_of_the_named_backbone() -> None:
    job = Job(
        config=CONFIGS / "swin" / "upernet_160k_ade20k.py",
        data=Path("data"),
        folder=Path("run/x"),
        model="swin_base_patch4_window7_224",
    )
    config = prepare(job)
    assert config.model.decode_head.in_channels == [128, 256, 512, 1024]
    assert config.model.auxiliary_head.in_channels == 512
    assert config.test_dataloader.dataset.data_root == "data/"
