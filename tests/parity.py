"""Parity: what released implementations compute, and the weights and images that they computed it with.

A fixture is ``tests/papers/<package>/fixtures/<name>.json`` and ``<name>.npz``. Of a model, the json has the names and
shapes of the released state dict; every floating-point tensor of it was replaced by :func:`fill` of its name and shape,
and outputs and gradient norms were recorded in eval mode on the CPU. Where there is a GPU, it has to give the same.

A paper's test is one line a variant::

    @pytest.mark.parametrize("variant", ["hornet_tiny_7x7", "hornet_tiny_gf"])
    def test_model_matches_the_release(variant: str) -> None:
        check_model("hornet", variant)
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import timm
import torch
from torch import Tensor, nn

import papers
from common.checkpoints import load_released, to_released, under_released_names

PAPERS = Path(__file__).parent / "papers"
#: Float32 rounding: allowed difference over the largest recorded magnitude.
OUTPUT_TOLERANCE = 1e-4
#: Allowed difference of a gradient's norm, relative to it; and to the largest of the model, since gradients that are
#: zero in exact arithmetic are rounding alone.
GRADIENT_TOLERANCE, GRADIENT_ROUNDING = 1e-3, 1e-5
#: Where parity is tested.
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

#: Patterns of released names, each with what becomes of a filled tensor.
Variation: TypeAlias = Mapping[str, Callable[[Tensor], Tensor]]
#: How a model is called with images, where not plainly.
Call: TypeAlias = Callable[[nn.Module, Tensor], Tensor]


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value of a released tensor: standard normal, seeded by its name, scaled by what the name says it is."""
    generator = np.random.Generator(np.random.Philox(zlib.crc32(name.encode())))
    value = generator.standard_normal(shape, dtype=np.float32)
    if len(shape) > 1:
        value = value / math.sqrt(math.prod(shape[1:]))
    elif name.endswith("running_var"):
        value = np.abs(1 + 0.1 * value)
    elif name.endswith("weight") or "gamma" in name:
        value = 1 + 0.1 * value
    else:
        value = 0.02 * value
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def images(batch: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Standard normal images (batch, channels, height, width)."""
    generator = np.random.Generator(np.random.Philox(seed))
    return torch.from_numpy(generator.standard_normal((batch, channels, height, width), dtype=np.float32))


def distance(ours: Tensor | np.ndarray, recorded: np.ndarray) -> float:
    """``max |ours - recorded| / max |recorded|``; the absolute difference where everything recorded is zero."""
    ours = ours.detach().cpu().numpy() if isinstance(ours, Tensor) else ours
    assert ours.shape == recorded.shape
    return float(np.abs(ours - recorded).max() / (np.abs(recorded).max() or 1.0))


@dataclass(frozen=True)
class Fixture:
    """What was recorded of a model or a function: its description and its arrays."""

    about: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @classmethod
    def load(cls, slug: str, name: str) -> Fixture:
        path = PAPERS / slug.replace("-", "_") / "fixtures" / name
        with np.load(path.with_name(f"{name}.npz")) as arrays:
            return cls(json.loads(path.with_name(f"{name}.json").read_text()), dict(arrays))

    def state(self, vary: Variation = {}) -> dict[str, Tensor]:  # noqa: B006  (only read)
        """The released state dict, without integers and without what ``derived`` names.

        A tensor that the description calls the same as another has the value of that one, and a tensor that ``vary``
        has a pattern for is in it, changed, whether it is derived or not.
        """
        about, state = self.about, {}
        derived = [(pattern, said) for key, said in about.get("derived", {}).items() for pattern in key.split(", ")]
        for name, shape in about["state"].items():
            if name in about.get("integer_state", ()):
                continue
            said = next((str(said) for pattern, said in derived if fnmatchcase(name, pattern)), None)
            shared = re.match(r"same tensor as (\S+)", said or "")
            source = shared[1] if shared else name
            change = next((change for pattern, change in vary.items() if fnmatchcase(source, pattern)), None)
            if said is not None and not shared and change is None:
                continue
            value = fill(source, tuple(shape))
            state[name] = change(value) if change else value
        unknown = [pattern for pattern in vary if not any(fnmatchcase(name, pattern) for name in state)]
        assert not unknown, f"no tensor of the released state dict is called {unknown[0]}"
        return state


@dataclass(frozen=True)
class Form:
    """A variation of a recorded model: ``logits_<form>``, ``logits_<form>_<size>`` and ``grad_norms_<form>``.

    Attributes:
        vary: how its weights differ from those of the plain model.
        call: how it is called.
    """

    vary: Variation = field(default_factory=dict)
    call: Call = lambda model, x: model(x)


def check_model(
    slug: str,
    variant: str,
    model: nn.Module | str = "",
    *,
    vary: Variation = {},  # noqa: B006  (only read)
    call: Call = Form.call,
    forms: Mapping[str, Form] = {},
    unread: Sequence[str] = (),
) -> nn.Module:
    """Hold a model against everything that the fixture ``variant`` of a paper has of it.

    The released state dict has to load strictly, without what it derives, and to come back with its names, shapes and
    values; parameters are counted; every recorded output (``logits``, ``logits_<size>``, ``logits_safe`` with its seed
    of images, and those of ``forms``) is compared unless the fixture names it as ``unusable``, and so are the norms of
    gradients (``grad_norms``): every parameter with a recorded one must have one here, and no other.

    Args:
        slug: the paper.
        variant: the fixture.
        model: what is held against it, or its name in timm; by default the model that is declared as released under
            the name of the fixture.
        vary: how the recorded weights differ from the plain fill, where the fixture's ``derived`` or ``notes`` say so,
            e.g. ``{"*.mask_scale": lambda value: 50 * value.abs()}``.
        call: how the model is called, where it takes more than images.
        forms: each other form that was recorded, by its name. ``vary`` of the model is not applied to them.
        unread: tensors that the release stores, trains not and reads nowhere: the model may lack them, and they come
            back as zeros.

    Returns:
        The model with the recorded weights, on the CPU, for what else there is to test.
    """
    fixture = Fixture.load(slug, variant)
    if not isinstance(model, nn.Module):
        model = timm.create_model(model or _declared(slug, variant))
    outputs = _outputs(fixture)
    all_forms = {"": Form(vary, call), "safe": Form(vary, call), **forms}
    unknown = sorted({form for form, _ in outputs.values()} - set(all_forms))
    assert not unknown, f"{variant} has logits_{unknown[0]}: say in forms how that form differs"
    idle = sorted(set(forms) - {form for form, _ in outputs.values()})
    assert not idle, f"{variant} has no logits_{idle[0]}"

    _check_parameters(model, fixture, sum(math.prod(fixture.about["state"][name]) for name in unread))
    for device in DEVICES:
        for name in sorted({form for form, _ in outputs.values()}, reverse=True):  # the plain form last, to be returned
            form, state = all_forms[name], fixture.state(all_forms[name].vary)
            load_released(model.cpu(), state).eval().to(device)
            if device == "cpu":
                zeros = {name: torch.zeros_like(state[name]) for name in unread}
                _check_state(model, {**state, **zeros}, fixture)
            sizes = {key: size for key, (of, size) in outputs.items() if of == name}
            _check_outputs(model, fixture, name, sizes, form.call, device, unread)
    return model.cpu()


def _declared(slug: str, variant: str) -> str:
    """The name in timm of the paper's model that was released as ``variant``."""
    names = [model.name for model in papers.find(slug).all_models if model.released == variant]
    assert len(names) == 1, f"{slug} declares {len(names)} models as released under {variant}: say which is meant"
    return names[0]


def _outputs(fixture: Fixture) -> dict[str, tuple[str, int]]:
    """The recorded logits that can be compared, each with its form and the size of its images."""
    found = {}
    for key in fixture.arrays:
        if key in fixture.about.get("unusable", ()) or key.endswith("_f64"):  # the release's own rounding
            continue
        if named := re.fullmatch(r"logits(?:_(.+?))??(?:_(\d{2,}))?", key):
            found[key] = (named[1] or "", int(named[2] or fixture.about["image_size"]))
    return found


def _check_parameters(model: nn.Module, fixture: Fixture, unread: int) -> None:
    assert sum(p.numel() for p in model.parameters()) == fixture.about["params"] - unread
    trainable = fixture.about.get("params_trainable", fixture.about["params"])
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable


def _check_state(model: nn.Module, state: Mapping[str, Tensor], fixture: Fixture) -> None:
    """The released names, shapes and values come back."""
    released = to_released(model)
    shapes = {**fixture.about["state"], **fixture.about.get("integer_state", {})}
    for name, value in released.items():
        assert list(value.shape) == shapes.get(name), f"{name} is {list(value.shape)}, released: {shapes.get(name)}"
    for name, value in state.items():
        assert name in released, f"{name} does not come back"
        assert torch.equal(released[name], value), f"{name} comes back with other values"


def _check_outputs(
    model: nn.Module,
    fixture: Fixture,
    form: str,
    sizes: Mapping[str, int],
    call: Call,
    device: str,
    unread: Sequence[str],
) -> None:
    about, arrays = fixture.about, fixture.arrays
    seed = about.get("image_seed", about.get("input_seed", 0))
    if form == "safe":
        seed = about["safe_image_seed"]
    gradients = "_".join(filter(None, ("grad_norms", form)))
    for key, size in sizes.items():
        recorded = arrays[key]
        differentiate = key == "_".join(filter(None, ("logits", form))) and gradients in arrays
        with torch.set_grad_enabled(differentiate):
            logits = call(model, images(len(recorded), 3, size, size, seed).to(device))
        assert distance(logits, recorded) < OUTPUT_TOLERANCE, f"{key} on {device}"
        if differentiate and gradients not in about.get("unusable", ()):
            weights = images(1, 1, *recorded.shape, seed=about.get("grad_seed", about.get("gradient_seed", 7)))[0, 0]
            model.zero_grad()
            (logits * weights.to(device)).sum().backward()
            norms = {name: norm for name, norm in _released_norms(model).items() if name not in unread}
            check_gradients(norms, fixture, gradients)


def _released_norms(model: nn.Module) -> dict[str, float]:
    """Norms of the gradients by released names, of parameters that have one."""
    gradients = {name: p.grad for name, p in model.named_parameters(remove_duplicate=False)}
    none = {name: torch.full(value.shape, math.nan, device=value.device) for name, value in model.state_dict().items()}
    found = {name: none[name] if (own := gradients.get(name)) is None else own for name in none}
    norms = {name: value.float().norm().item() for name, value in under_released_names(model, found).items()}
    return {name: norm for name, norm in norms.items() if not math.isnan(norm)}


def check_gradients(norms: Mapping[str, float], fixture: Fixture, key: str = "grad_norms") -> None:
    """Hold norms by released names against the recorded ones; those that were recorded as unused may be absent."""
    about = fixture.about
    recorded = dict(zip(about["grad_names"], fixture.arrays[key].tolist(), strict=True))
    unused = set(about.get("unused_params", ())) - set(norms)
    shared = {name for name, said in about.get("derived", {}).items() if str(said).startswith("same tensor as")}
    assert set(norms) - shared == set(recorded) - unused
    rounding = GRADIENT_ROUNDING * max(recorded.values())
    for name in set(recorded) - unused:
        difference = abs(norms[name] - recorded[name])
        assert difference <= GRADIENT_TOLERANCE * recorded[name] + rounding, f"{key} of {name}: off by {difference:.2g}"
