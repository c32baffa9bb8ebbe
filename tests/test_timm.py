"""Every model as timm's own tests ask of theirs: configuration, classifier, gradients, features, symbolic tracing.

They are found by the declarations. Shapes are asked of every model that a paper defines, values of the smallest of each
class. What a model cannot give is said, with its reason, in ``exceptions.py`` beside the paper's tests:
``WITHOUT_GRADIENT``, by patterns of parameters that no classifier's loss reaches, and ``WITHOUT_MAPS``, by patterns of
models.
"""

from __future__ import annotations

import importlib
import math
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import get_channel_dim, get_spatial_dim
from timm.models import get_notrace_functions, get_notrace_modules
from torch import Tensor, nn
from torch.fx import GraphModule
from torchvision.models.feature_extraction import NodePathTracer

import papers
from common.errors import UserError
from common.shapes import shapes_only

#: Sides of images, in pixels, of models that take any.
SIDE = 64
#: Models with more parameters are asked for values in slow tests alone.
LARGE = 30_000_000

WITH_MODELS = {paper.slug: paper for paper in papers.all_papers().values() if paper.models}


@cache
def _smallest(slug: str) -> dict[str, int]:
    """Of each class of a paper's own, the model with the fewest parameters, and how many these are."""
    found: dict[type, tuple[int, str]] = {}
    for model in WITH_MODELS[slug].models:
        with shapes_only():
            network: Any = timm.create_model(model.name)
        kind, size = type(network), sum(parameter.numel() for parameter in network.parameters())
        if not kind.__module__.startswith("timm."):
            found[kind] = min(found.get(kind, (size, model.name)), (size, model.name))
    return {name: size for size, name in found.values()}


def _exceptions(slug: str, kind: str) -> dict[str, str]:
    """What is excepted, as patterns, each with its reason."""
    package = slug.replace("-", "_")
    if not (Path(__file__).parent / "papers" / package / "exceptions.py").is_file():
        return {}
    found: dict[str, str] = getattr(importlib.import_module(f"tests.papers.{package}.exceptions"), kind, {})
    assert all(reason.endswith(".") for reason in found.values()), "a reason is a sentence"
    return found


each_size = pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.slow)])
each_paper = pytest.mark.parametrize("slug", WITH_MODELS)


def _names(slug: str, large: bool) -> list[str]:
    """The smallest models of a paper's own classes that are large or not; the test is skipped where none is."""
    names = [name for name, size in _smallest(slug).items() if (size > LARGE) == large]
    if not names:
        pytest.skip(
            f"No class of its own has a smallest model of {'more than' if large else 'at most'} 30 M parameters."
        )
    return names


def _images(model: Any, batch: int) -> Tensor:
    """Images of a size that the model takes, a small one where it may."""
    config = model.default_cfg
    channels, height, width = config["input_size"]
    if not config.get("fixed_input_size"):
        height, width = min(height, SIDE), min(width, SIDE)
    torch.manual_seed(0)
    return torch.randn(batch, channels, height, width)


def _as_tuple(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


@pytest.mark.parametrize("name", [model.name for paper in WITH_MODELS.values() for model in paper.models])
def test_configuration_and_classifier(name: str) -> None:
    """By shapes alone, on images of the configured size."""
    with shapes_only():
        model: Any = timm.create_model(name, num_classes=7).eval()
        config = model.default_cfg
        modules = dict(model.named_modules())
        for part in (*_as_tuple(config["classifier"]), *_as_tuple(config["first_conv"])):
            assert hasattr(modules.get(part), "weight"), f"{part} is no layer with a weight"
        images = torch.empty(1, *config["input_size"])
        features = model.forward_features(images)
        hidden = model.forward_head(features, pre_logits=True)
        assert hidden.shape == (1, model.head_hidden_size)
        assert model.forward_head(features).shape == (1, 7)
        if isinstance(features, Tensor):  # not several maps
            channels, places = _axes(model, features, config["pool_size"])
            assert features.shape[channels] == model.num_features
            assert not config["pool_size"] or [features.shape[axis] for axis in places] == list(config["pool_size"])
        model.reset_classifier(0)
        assert model.num_classes == 0
        assert model.forward_head(features).shape == hidden.shape
        if config["pool_size"]:
            model.reset_classifier(0, "")
            assert model.forward_head(features).shape == features.shape
        model.reset_classifier(3, "avg" if config["pool_size"] else None)
        assert model.forward_head(features).shape == (1, 3)


def _axes(model: Any, features: Tensor, pool_size: Any) -> tuple[int, tuple[int, ...]]:
    """Where features have channels, and where they have places."""
    if pool_size:
        layout = getattr(model, "output_fmt", "NCHW")
        return get_channel_dim(layout), get_spatial_dim(layout)
    return 1 if features.ndim == 4 else -1, ()


@each_size
@each_paper
def test_every_parameter_that_is_trained_gets_a_gradient(slug: str, large: bool) -> None:
    excepted = _exceptions(slug, "WITHOUT_GRADIENT")
    for name in _names(slug, large):
        model: Any = timm.create_model(name, num_classes=7).train()
        logits = model(_images(model, 2))
        assert logits.shape == (2, 7), name
        assert logits.isfinite().all(), name
        logits.mean().backward()
        missing = {key for key, value in model.named_parameters() if value.requires_grad and value.grad is None}
        named = {key for key, _ in model.named_parameters() if any(fnmatchcase(key, each) for each in excepted)}
        known = {key for key in named if model.get_parameter(key).requires_grad}
        assert missing <= known, f"{name}: no gradient reaches {', '.join(sorted(missing - known))}"
        assert known <= missing, f"{name}: a gradient reaches {', '.join(sorted(known - missing))}, which is excepted"


@each_size
@each_paper
def test_maps_are_as_described(slug: str, large: bool) -> None:
    """Those of ``forward_intermediates``, and of ``features_only``, whose last are the same."""
    for name in _names(slug, large):
        if any(fnmatchcase(name, pattern) for pattern in _exceptions(slug, "WITHOUT_MAPS")):
            with pytest.raises(UserError):
                timm.create_model(name, features_only=True)
            continue
        pyramid: Any = timm.create_model(name, features_only=True).eval()
        images = _images(pyramid, 1)
        with torch.inference_mode():
            maps = pyramid(images)
        _check_maps(maps, pyramid.feature_info, getattr(pyramid, "output_fmt", "NCHW"), images, name)
        model: Any = timm.create_model(name).eval()
        if not hasattr(model, "forward_intermediates"):
            continue
        with torch.inference_mode():
            features, all_maps = model.forward_intermediates(images)
            assert torch.allclose(features, model.forward_features(images), rtol=1e-4, atol=1e-5), name
        info = timm.models.FeatureInfo(model.feature_info, len(model.feature_info))
        _check_maps(all_maps, info, "NCHW", images, name)


def _check_maps(maps: list[Tensor], info: Any, layout: str, images: Tensor, name: str) -> None:
    assert len(maps) == len(info.channels()), name
    for found, channels, reduction in zip(maps, info.channels(), info.reduction(), strict=True):
        assert found.shape[get_channel_dim(layout)] == channels, name
        for axis, side in zip(get_spatial_dim(layout), images.shape[2:], strict=True):
            assert abs(found.shape[axis] - math.ceil(side / reduction)) <= 1, f"{name} at stride {reduction}"
        assert found.isfinite().all(), name


@each_size
@each_paper
def test_symbolic_trace_gives_the_same(slug: str, large: bool) -> None:
    """As timm traces for features; in training control flow may differ, so that it is traced, too."""
    for name in _names(slug, large):
        model: Any = timm.create_model(name, num_classes=7).eval()
        images = _images(model, 1)
        with torch.inference_mode():
            assert torch.equal(_traced(model)(images), model(images)), name
        _traced(model.train())


def _traced(model: nn.Module) -> GraphModule:
    tracer = NodePathTracer(
        leaf_modules=get_notrace_modules(), autowrap_functions=get_notrace_functions(), param_shapes_constant=True
    )
    graph = tracer.trace(model)
    return GraphModule(tracer.root, graph)
