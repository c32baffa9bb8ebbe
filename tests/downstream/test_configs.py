"""Every config builds its model, and printed sizes of detectors are met."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import downstream  # noqa: F401  (before anything of OpenMMLab)
import papers
from common.shapes import shapes_only
from downstream.backbone import TimmFeatures, find_backbones
from downstream.layer_decay import LayerDecay
from downstream.operators.registration import PROVIDED
from downstream.training import CONFIGS, Job, build_model, load_config, prepare, settings

ALL = [path for paper in papers.all_papers().values() for path in settings(paper).values()]
SWIN, FAN, VARS = (papers.find(slug).folder / "downstream" for slug in ("swin", "fan", "vars"))

#: Printed parameters in millions: github.com/microsoft/Swin-Transformer README.md @f82860b, COCO and ADE20K tables;
#: READMEs of github.com/IBM/RegionViT @77000c2 and github.com/hustvl/MSG-Transformer @068da56, COCO tables.
PRINTED = {
    "swin/mask-rcnn_3x_coco": 48,
    "swin/cascade-mask-rcnn_3x_coco": 86,
    "swin/upernet_160k_ade20k": 60,
    "regionvit/mask-rcnn_1x_coco": 50,
    "regionvit/retinanet_1x_coco": 41,
    "msg_transformer/cascade-mask-rcnn_3x_coco": 83,
    "hornet/cascade-mask-rcnn_3x_coco": 80,
    "hornet/upernet_160k_ade20k": 52,
    "hornet/upernet_160k_large_ade20k": 232,
}


#: The operators that a part of a config calls, forwards and backwards.
CALLS = {
    "RoIAlign": {"roi_align_forward", "roi_align_backward"},
    "nms": {"nms"},
    "FocalLoss": {"sigmoid_focal_loss_forward", "sigmoid_focal_loss_backward"},
}


def _types(node: object) -> Iterator[str]:
    """What a config names as a type, however deep."""
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            yield node["type"]
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for each in node:
            yield from _types(each)


def test_operators_are_those_that_configs_reach() -> None:
    reached = {
        name for path in (*ALL, *(CONFIGS / "embedded").glob("*.py")) for name in _types(load_config(path).model)
    }
    assert reached >= CALLS.keys()
    provided = {name for module, names in PROVIDED.items() if module != "info" for name in names}
    assert provided == set().union(*CALLS.values())
    assert not {name for name in reached if name.lower().endswith("nms") or name.startswith(("Deform", "DCN"))} - {
        "nms"
    }


def _name(path: Path) -> str:
    return f"{_package(path)}/{path.stem}"


def _package(path: Path) -> str:
    return path.parents[1].name


@pytest.mark.parametrize("path", ALL, ids=_name)
def test_a_config_builds_its_model(path: Path) -> None:
    config = prepare(Job(config=path, data=Path("data"), folder=Path("run/training")))
    with shapes_only():
        model = build_model(config)
    assert [type(each) for each in find_backbones(model).values()] == [TimmFeatures]
    layers = {type(each).__name__ for each in model.modules() if type(each).__module__.startswith("mmcv.ops")}
    assert layers <= CALLS.keys()
    assert config.optim_wrapper.constructor == "LayerDecay"
    if _name(path) in PRINTED:
        millions = sum(value.numel() for value in model.parameters()) / 1e6
        assert round(millions) == PRINTED[_name(path)]


@pytest.mark.parametrize("path", [path for path in ALL if _package(path) == "vars"], ids=_name)
def test_a_kept_config_is_the_one_that_was_read(path: Path) -> None:
    config = load_config(path)
    assert config.to_dict() == Config.fromfile(path).to_dict()
    assert Config.fromstring(config.pretty_text, ".py").to_dict() == config.to_dict()


def narrow(package: str) -> dict[str, object]:
    """``NARROW`` of ``tests/papers/PACKAGE/downstream.py``, where there is one: arguments for small backbones."""
    if not (Path(__file__).parents[1] / "papers" / package / "downstream.py").is_file():
        return {}
    return importlib.import_module(f"tests.papers.{package}.downstream").NARROW


@pytest.mark.parametrize("path", ALL, ids=_name)
def test_backbone_and_neck_can_be_distributed(path: Path) -> None:
    """DistributedDataParallel stops at a parameter without a gradient, unless it is told to look for them."""
    job = Job(config=path, data=Path("x"), folder=Path("y/z"), model_args=narrow(_package(path)))
    prepared = prepare(dataclasses.replace(job, img_size=64) if "img_size" in load_config(path).model.backbone else job)
    prepared.model.backbone.drop_path_rate = 0.0
    init_default_scope(prepared.default_scope)
    parts = [MODELS.build(prepared.model[part]) for part in ("backbone", "neck") if prepared.model.get(part)]
    maps = torch.nn.Sequential(*parts)(torch.randn(2, 3, 64, 64))
    sum(each.square().sum() for each in maps).backward()
    learned = [(name, value) for part in parts for name, value in part.named_parameters() if value.requires_grad]
    lacking = [name for name, value in learned if value.grad is None]
    assert not lacking or prepared.get("find_unused_parameters"), lacking


def test_what_a_source_sets_for_another_backbone_is_taken() -> None:
    job = Job(config=SWIN / "cascade-mask-rcnn_3x_coco.py", data=Path("x"), folder=Path("y/z"))
    rates = [
        prepare(dataclasses.replace(job, model=f"swin_{size}_patch4_window7_224")).model.backbone.drop_path_rate
        for size in ("tiny", "small", "base")
    ]
    assert rates == [0.2, 0.2, 0.3]
    job = Job(config=FAN / "all-mlp_160k_cityscapes.py", data=Path("x"), folder=Path("y/z"))
    large = prepare(dataclasses.replace(job, model="fan_large_16_p4_hybrid"))
    with shapes_only():
        backbone = MODELS.build(large.model.backbone)
    assert backbone.channels == large.model.decode_head.in_channels == [128, 256, 480, 480]
    assert [info["module"] for info in backbone.model.feature_info][20] == "blocks.18"


def test_what_a_source_sets_beside_the_backbone_is_taken() -> None:
    job = Job(
        config=papers.find("hornet").folder / "downstream" / "upernet_160k_ade20k.py",
        data=Path("x"),
        folder=Path("y/z"),
    )
    own, wider = prepare(job), prepare(dataclasses.replace(job, model="hornet_base_gf"))
    assert own.optim_wrapper.get("clip_grad") is None
    assert wider.optim_wrapper.clip_grad == {"max_norm": 1.0}
    assert (wider.model.backbone.drop_path_rate, wider.model.backbone.img_size) == (0.5, 384)
    layers = [dict(each.optim_wrapper.paramwise_cfg.layers) for each in (own, wider)]
    assert [each["stages.3."] for each in layers] == [3, 9]
    with shapes_only():
        backbone = MODELS.build(wider.model.backbone)
    rates = LayerDecay(wider.optim_wrapper, wider.optim_wrapper.paramwise_cfg).groups(backbone, 1.0, 0.05)
    of = {id(value): group for group in rates for value in group["params"]}
    rate = {name: of[id(value)]["lr"] for name, value in backbone.named_parameters()}
    assert rate["norm3.weight"] == 1
    assert rate["model.stages.3.1.gamma1"] == pytest.approx(0.9**9)
    assert rate["model.stages.0.0.mlp.fc1.weight"] == pytest.approx(0.9**12)
    assert rate["model.downsample_layers.3.1.weight"] == pytest.approx(0.9**13)
    assert of[id(backbone.model.stages[3][1].mlp.fc1.weight)]["weight_decay"] == 0.05
    assert of[id(backbone.model.stages[3][1].mlp.fc1.bias)]["weight_decay"] == 0


@pytest.mark.parametrize("model", ["vars_s_rvt_small", "vars_sd_rvt_small", "rvt_small_plus", "performer_deit_tiny"])
def test_every_attention_fits_the_same_config(model: str) -> None:
    config = prepare(Job(config=VARS / "upernet_160k_ade20k.py", data=Path("data"), folder=Path("run/x"), model=model))
    with shapes_only():
        build_model(config)


def test_channels_are_those_of_the_named_backbone() -> None:
    job = Job(
        config=SWIN / "upernet_160k_ade20k.py",
        data=Path("data"),
        folder=Path("run/x"),
        model="swin_base_patch4_window7_224",
    )
    config = prepare(job)
    assert config.model.decode_head.in_channels == [128, 256, 512, 1024]
    assert config.model.auxiliary_head.in_channels == 512
    assert config.test_dataloader.dataset.data_root == "data/"
