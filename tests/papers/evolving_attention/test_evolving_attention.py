"""Evolving attention: parity with the released implementations, and what its claims measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.shapes import shapes_only
from papers.evolving_attention import claims, identity, series_comparison, timeseries
from papers.evolving_attention.maps import Evolution, relative_terms
from papers.evolving_attention.mini import attention_maps, evolving_vit_mini, maps_picture
from papers.evolving_attention.model import AugmentedConvolution, EvolvingAttention, create, enlarged, pooled
from papers.evolving_attention.released import UNREAD, _names
from papers.evolving_attention.series import EADCTransformer
from tests.parity import GRADIENT_TOLERANCE, Fixture, check_gradients, distance, fill, images

SLUG = "evolving-attention"
TOLERANCE = 1e-4


def tensorflow_fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of TensorFlow's: kernels filled with their output first, as the fixtures were."""
    if name.endswith("moving_variance"):
        return (1 + (fill(name, shape) / 0.02) * 0.1).abs()
    if len(shape) == 4:
        return fill(name, (shape[3], shape[2], *shape[:2])).permute(2, 3, 1, 0)
    return fill(name, shape[::-1]).mT if name.endswith("kernel") else fill(name, shape)


def test_residual_network_matches_the_release() -> None:
    fixture = Fixture.load(SLUG, "ea_resnet50")
    about, arrays = fixture.about, fixture.arrays
    model = create("ea_resnet50", num_classes=about["classes"])
    state = {name: tensorflow_fill(name, tuple(shape)) for name, shape in about["state"].items()}
    load_released(model, state).eval()
    assert sum(p.numel() for p in model.parameters()) == about["params"]
    back = to_released(model)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], value) for name, value in state.items())

    features, maps = model.features_and_maps(images(2, 3, 224, 224))
    logits = model.forward_head(features)
    assert distance(logits, arrays["logits"]) < TOLERANCE
    assert len(maps) == 13
    for index in (0, 5, 12):
        every = maps[index].shape[-1] // 14 or 1
        assert distance(maps[index][:, :, ::every, ::every], arrays[f"attention_logits_{index:02d}"]) < TOLERANCE

    (logits * images(1, 1, 2, about["classes"], seed=7)[0, 0]).sum().backward()
    ours, parameters = dict(_names(model)), dict(model.named_parameters())
    recorded = dict(zip(about["grad_names"], arrays["grad_norms"].tolist(), strict=True))
    for name, norm in recorded.items():
        found = parameters[ours[name]].grad.norm().item()
        assert abs(found - norm) <= GRADIENT_TOLERANCE * norm + 1e-4 * max(recorded.values()), name
    with torch.no_grad():
        assert distance(model.train()(images(4, 3, 224, 224, seed=50)), arrays["logits_train"]) < TOLERANCE


def test_augmented_convolutions_match_the_release() -> None:
    fixture = Fixture.load(SLUG, "augmented_convolution")
    about, arrays = fixture.about, fixture.arrays
    previous, loss, inputs, layers = None, torch.zeros(()), [], []
    for index, step in enumerate(about["steps"]):
        evolves = about["has_map_convolution"][index]
        side = round(arrays[f"attention_logits_{index}"].shape[-1] ** 0.5)
        layer = AugmentedConvolution(16, 64, (side, side), step["strides"], step["do_downsample"], evolves)
        prefix = f"step_{index}"
        parts = {"conv2d": "conv", "conv2d_1": "kqv"}
        parts |= {"conv2d_2": "evolution.conv", "conv2d_3": "proj"} if evolves else {"conv2d_2": "proj"}
        state = {}
        for name, shape in about["state"].items():
            if name.startswith(prefix):
                part, _, kind = name.removeprefix(f"{prefix}/").partition("/")
                value = tensorflow_fill(name, tuple(shape))
                if kind == "kernel":
                    value = value.permute(3, 2, 0, 1) * (4 if part == "conv2d_1" else 1)
                    state[f"{parts[part]}.weight"] = value
                else:
                    state[f"{parts[part]}.bias" if kind else {"r_width": "columns", "r_height": "rows"}[part]] = value
        layer.load_state_dict(state)
        x = torch.from_numpy(arrays[f"x_{index}"]).permute(0, 3, 1, 2).requires_grad_()
        out, previous = layer(x, previous)
        assert distance(out.permute(0, 2, 3, 1), arrays[f"out_{index}"]) < TOLERANCE, index
        assert distance(previous, arrays[f"attention_logits_{index}"]) < TOLERANCE, index
        loss = loss + (out.permute(0, 2, 3, 1) * torch.from_numpy(arrays[f"weight_{index}"])).sum()
        inputs.append(x)
        layers.append(layer)
    loss.backward()
    for index, x in enumerate(inputs):
        assert x.grad is not None
        assert distance(x.grad.permute(0, 2, 3, 1), arrays[f"grad_x_{index}"]) < TOLERANCE, index


def test_time_series_network_matches_the_release() -> None:
    fixture = Fixture.load(SLUG, "ea_dc_transformer")
    about, arrays = fixture.about, {name: torch.from_numpy(value) for name, value in fixture.arrays.items()}
    sizes: dict[str, Any] = {
        "dim": 64,
        "hidden": 64,
        "depth": 2,
        "mlp_dim": 32,
        "alpha": 0.5,
        "beta": 0.3,
        "keys": 0.25,
        "values": 0.25,
    }
    model = EADCTransformer(5, 16, 4, form="released", **sizes)
    state = {
        name: fill(name, tuple(shape))
        for name, shape in about["state"].items()
        if name != "pos_enc.pe" and not name.endswith("num_batches_tracked")
    }
    load_released(model, state).eval()
    back = to_released(model)
    assert {name: list(value.shape) for name, value in back.items()} == about["state"]
    assert all(torch.equal(back[name], value) or UNREAD.search(name) for name, value in state.items())
    unread = sum(value.numel() for name, value in state.items() if UNREAD.search(name))
    assert sum(p.numel() for p in model.parameters()) == about["params"] - unread

    tables = [arrays[f"relative_{index}"] for index in range(6)]
    features, maps = model.features_and_maps(arrays["x"], arrays["mask"], tables)
    logits = model(arrays["x"], arrays["mask"], tables)
    assert distance(logits, fixture.arrays["logits"]) < TOLERANCE
    assert distance(features[:, :, :16], fixture.arrays["representation"]) < TOLERANCE
    for index, attention in enumerate(maps):
        assert distance(attention, fixture.arrays[f"attention_logits_{index}"]) < TOLERANCE
    (logits * arrays["loss_weight"]).sum().backward()
    norms = {
        name.replace("blocks.", "TSEACausalCnn.ea_causal_cnn.network.").replace(".evolution.conv.", ".att_conv.0."): (
            p.grad.norm().item() if p.grad is not None else 0.0
        )
        for name, p in model.named_parameters()
    }
    assert set(norms) == set(about["grad_names"])
    check_gradients(norms, fixture)
    # Other draws give other outputs, here as in the release.
    assert not torch.allclose(model(arrays["x"], arrays["mask"]), model(arrays["x"], arrays["mask"]))


@pytest.mark.parametrize(("name", "size", "count"), [("ea_resnet101", 224, 43442777), ("ea_resnet50", 160, 24968353)])
def test_other_networks_have_the_size_of_their_checkpoints(name: str, size: int, count: int) -> None:
    with shapes_only():
        model = timm.create_model(name, num_classes=1001, img_size=size)
    assert sum(p.numel() for p in model.parameters()) == count


def test_evolution_mixes_and_convolves() -> None:
    torch.manual_seed(0)
    evolution, logits, previous = Evolution(2, alpha=0.3, beta=0.4), torch.randn(1, 2, 5, 5), torch.randn(1, 2, 5, 5)
    mixed = 0.6 * logits + 0.4 * previous
    assert evolution.conv is not None
    expected = 0.3 * evolution.conv(mixed).relu() + 0.7 * mixed
    torch.testing.assert_close(evolution(logits, previous), expected)
    assert Evolution(2, 0.0, 0.0)(logits, previous) is logits


def test_relative_terms_are_those_of_the_distance() -> None:
    q, table = torch.randn(2, 4, 3), torch.randn(7, 3)
    terms = relative_terms(q, table)
    for query in range(4):
        for key in range(4):
            torch.testing.assert_close(terms[:, query, key], q[:, query] @ table[key - query + 3])


def test_pooling_and_enlarging_are_tensorflows() -> None:
    x = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 1, 6, 6)
    assert pooled(x)[0, 0, 0].tolist() == [1.0, 3.0, 4.5]  # windows 0-2, 2-4 and 4-5: padded at the end alone
    assert pooled(x[..., :5])[0, 0, 0].tolist() == [0.5, 2.0, 3.5]  # at both ends
    assert enlarged(x[..., :2, :2], (4, 4))[0, 0, 0].tolist() == [0.0, 0.5, 1.0, 1.0]


def test_plain_finding_notices_a_map_that_evolves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.verdict for finding in identity.plain()] == ["holds"]
    assert identity.overhead().verdict == "holds"
    changed = lambda self, logits, previous: 0.9 * logits  # noqa: E731
    monkeypatch.setattr(Evolution, "forward", changed)
    monkeypatch.setattr(EvolvingAttention, "__init__", _always_evolving)
    assert [finding.verdict for finding in identity.plain()] == ["does not hold"]


def _always_evolving(self: Any, dim: int, num_heads: int = 8, **kwargs: Any) -> None:
    super(EvolvingAttention, self).__init__(dim, num_heads, **kwargs)
    self.evolution = Evolution(num_heads, self.alpha, self.beta)


@pytest.mark.parametrize("name", ["ea_resnet50", "ea_vit_small_patch16_224"])
def test_models_behave_as_timm_models_do(name: str) -> None:
    small: dict[str, Any] = {"depths": (1, 1, 2, 1), "width": 32} if "resnet" in name else {"embed_dim": 24, "depth": 2}
    small |= {} if "resnet" in name else {"num_heads": 3}
    torch.manual_seed(0)
    model: Any = timm.create_model(name, img_size=64, in_chans=1, num_classes=7, drop_rate=0.1, **small)
    model.set_grad_checkpointing()
    x = images(2, 1, 64, 64)
    model.train()(x).square().mean().backward()
    missing = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)
        features = model.forward_features(x)
        torch.testing.assert_close(model.forward_head(features), model(x))
        assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)
    state = to_released(model)
    assert all(torch.equal(value, state[key]) for key, value in to_released(load_released(model, state)).items())


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Nothing is downloaded"):
        create("ea_resnet50", pretrained=True)
    with pytest.raises(UserError, match="Did you mean ea_resnet50"):
        create("ea_resnet5")
    with pytest.raises(UserError, match="build the model with img_size="):
        create("ea_resnet50", depths=(1, 1, 1, 1), img_size=64)(images(1, 3, 96, 96))
    with pytest.raises(UserError, match="Did you mean published"):
        EADCTransformer(1, 8, 2, form="publishd")
    with pytest.raises(UserError, match="cannot be divided among 8 heads"):
        EADCTransformer(1, 8, 2, dim=20)
    with pytest.raises(UserError, match="Series have 9 steps, and the network 8"):
        EADCTransformer(1, 8, 2)(torch.zeros(1, 9, 1), torch.ones(1, 9, dtype=torch.bool))
    with pytest.raises(UserError, match=r"There is no .*Nothing_TRAIN\.ts"):
        timeseries.load(tmp_path, "Nothing")


def write_series(folder: Path, name: str, kind: str, rows: list[str]) -> None:
    (folder / name).mkdir()
    for part in ("TRAIN", "TEST"):
        head = f"# a comment\n@problemName {name}\n@{kind}\n@data\n"
        (folder / name / f"{name}_{part}.ts").write_text(head + "\n".join(rows) + "\n")


def test_series_are_read_standardised_and_padded(tmp_path: Path) -> None:
    write_series(tmp_path, "Two", "classLabel true a b", ["1,2,3:4,4,4:b", "5,6:0,0:a"])
    data = timeseries.load(tmp_path, "Two")
    assert data.classes == 2
    assert data.train.y.tolist() == [1, 0]
    assert data.train.mask.tolist() == [[True] * 3, [True, True, False]]
    values = data.train.x[data.train.mask]
    torch.testing.assert_close(values.mean(dim=0), torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(values.std(dim=0, unbiased=False), torch.ones(2))
    assert not data.train.x[1, 2].any()

    write_series(tmp_path, "Value", "targetlabel true", ["1,2:0.5", "3,4:1.5"])
    data = timeseries.load(tmp_path, "Value")
    assert data.classes == 0
    assert data.train.y.tolist() == [[-1.0], [1.0]]

    write_series(tmp_path, "Broken", "classLabel true a", ["1,?:a"])
    with pytest.raises(UserError, match=r"Line 5 of .* is no series of numbers"):
        timeseries.load(tmp_path, "Broken")


def test_padded_steps_change_nothing_but_attention() -> None:
    torch.manual_seed(0)
    model = EADCTransformer(2, 6, 3, dim=32, hidden=32, depth=1, mlp_dim=16).eval()
    x, mask = torch.randn(2, 6, 2), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    other = x.clone()
    other[1, 4:] = 7.0
    torch.testing.assert_close(model(x, mask), model(other, mask))


def test_a_network_learns_a_series(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = []
    for index in range(24):
        wave = np.sin(np.arange(12) * (0.5 + index % 2)) + 0.1 * generator.standard_normal(12)
        rows.append(",".join(f"{value:.3f}" for value in wave) + f":{'ab'[index % 2]}")
    write_series(tmp_path, "Waves", "classLabel true a b", rows)
    data = timeseries.load(tmp_path, "Waves")
    model = series_comparison.train(data, series_comparison.CHANGES[series_comparison.DILATED], seed=0, steps=15)
    assert series_comparison.measure(model, data) == 1.0


def test_contenders_differ_in_how_maps_evolve_alone() -> None:
    models: dict[str, nn.Module] = {each.name: each.build() for each in claims.contenders()}
    found = {
        name: {(e.alpha, e.beta, e.conv is not None) for e in model.modules() if isinstance(e, Evolution)}
        for name, model in models.items()
    }
    assert found == {
        claims.HOST: set(),
        claims.VIT: {(0.5, 0.5, True)},
        claims.LINK: {(0.0, 0.5, False)},
        claims.CONVOLUTION: {(0.5, 0.0, True)},
    }
    host = models[claims.HOST]
    plain: Any = evolving_vit_mini(alpha=0.0, beta=0.0).eval()
    plain.load_state_dict(host.state_dict())
    x = images(1, 3, 28, 28)
    torch.testing.assert_close(plain(x), host.eval()(x))
    assert [each.shape for each in attention_maps(host, x[0])] == [(50, 50)] * 3
    torch.testing.assert_close(attention_maps(host, x[0])[0].sum(dim=1), torch.ones(50))


def test_picture_has_a_map_for_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    clean = torch.randint(0, 255, (1, 1, 3, 28, 28), dtype=torch.uint8)
    monkeypatch.setattr("papers.evolving_attention.mini.bench.test_set", lambda quick: SimpleNamespace(clean=clean))
    assert maps_picture({"a": evolving_vit_mini(), "b": evolving_vit_mini()}).svg.count("<image") == 6
