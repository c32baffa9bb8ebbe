"""HorNet: parity with the released implementation, what its layers compute, and what its claims measure."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

import papers.hornet.model as hornet
from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.resizing import resized
from common.shapes import shapes_only
from papers.hornet import PAPER, claims, mini, order
from papers.hornet.model import GatedConvolution, GlobalFilter
from tests.parity import Fixture, check_model, images

#: Parameters of every released variant.
PARAMETERS = {
    "hornet_tiny_7x7": 22409512,
    "hornet_tiny_gf": 22991848,
    "hornet_small_7x7": 49528264,
    "hornet_small_gf": 50401768,
    "hornet_base_7x7": 87256680,
    "hornet_base_gf": 88421352,
    "hornet_base_gf_img384": 92099560,
    "hornet_large_7x7": 194542504,
    "hornet_large_gf": 196289512,
    "hornet_large_gf_img384": 201806824,
}


def small(**kwargs: object) -> nn.Module:
    """Convolutions in the first two stages, global filters in the last two, scales that let every block be seen."""
    torch.manual_seed(0)
    sizes = {"base_dim": 16, "depths": (1, 1, 2, 1), "num_classes": 7, "img_size": 64, "ls_init_value": 1.0}
    return timm.create_model("hornet_tiny_gf", **{**sizes, **kwargs})


@pytest.mark.parametrize("variant", ["hornet_tiny_7x7", "hornet_tiny_gf"])
def test_model_matches_the_release(variant: str) -> None:
    check_model("hornet", variant)


def test_every_variant_has_the_size_of_its_checkpoint() -> None:
    assert {model.released for model in PAPER.models} == set(PARAMETERS)
    for name, count in PARAMETERS.items():
        with shapes_only():
            model = timm.create_model(name)
        assert sum(p.numel() for p in model.parameters()) == count, name


def test_multiply_adds_are_those_of_the_release() -> None:
    """The fixture's count is plain fvcore's on the released code, which leaves out Fourier transforms."""
    counted = {(each.model, each.metric): each.value for each in claims.model_size("hornet_tiny_gf")}
    released = Fixture.load("hornet", "hornet_tiny_gf").about["gflops_fvcore"]
    assert counted["hornet_tiny_gf.mmpretrain", "flops"] == pytest.approx(released, rel=1e-12)
    # C H (W + W / 2 + 1) ceil(log2(C H)): 18 filters of 240 channels on 14 x 14, 2 of 496 on 7 x 7 positions.
    transforms = 18 * 240 * 14 * (14 + 8) * 12 + 2 * 496 * 7 * (7 + 4) * 12
    assert counted["hornet_tiny_gf", "flops"] == pytest.approx(released + transforms / 1e9, rel=1e-12)


def test_released_names_load_strictly_and_come_back() -> None:
    state = to_released(small())
    other = small()
    nn.init.ones_(next(other.parameters()))
    assert all(torch.equal(value, state[name]) for name, value in to_released(load_released(other, state)).items())
    first = next(iter(state))
    with pytest.raises(UserError, match=re.escape(first)):
        load_released(small(), {name: value for name, value in state.items() if name != first})
    with pytest.raises(UserError, match="surplus"):
        load_released(small(), {**state, "surplus": torch.zeros(1)})


def test_a_filter_stored_for_another_size_is_the_one_that_is_resized_in_passing() -> None:
    model = small().eval()
    larger = small(img_size=(96, 128)).eval()
    larger.load_state_dict(resized(model.state_dict(), larger))
    assert larger.stages[2][0].gnconv.dwconv.complex_weight.shape[1:3] == (6, 5)
    x = images(1, 3, 96, 128)
    with torch.no_grad():
        torch.testing.assert_close(larger(x), model(x))


def test_global_filter_is_a_circular_convolution_beside_a_local_one() -> None:
    torch.manual_seed(0)
    mixer = GlobalFilter(6, (4, 5)).double()
    x = images(1, 4, 5, 6).double()
    near, far = mixer.pre_norm(x)[0].chunk(2, dim=-1)
    kernel = torch.fft.irfft2(torch.view_as_complex(mixer.complex_weight.float().double()), s=(4, 5)).permute(1, 2, 0)
    expected = torch.zeros_like(far)
    for row in range(4):
        for column in range(5):
            expected += kernel[row, column] * far.roll((row, column), dims=(0, 1))
    result = torch.stack((mixer.dw(near[None])[0], expected), dim=-1).flatten(-2)
    torch.testing.assert_close(mixer(x)[0], mixer.post_norm(result), rtol=1e-4, atol=1e-5)


def test_transforms_are_in_float32_whatever_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, transform = [], torch.fft.rfft2
    monkeypatch.setattr(torch.fft, "rfft2", lambda x, **kwargs: seen.append(x.dtype) or transform(x, **kwargs))
    model, x = small().eval(), images(1, 3, 64, 64)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(x)
        half = model.bfloat16()(x.bfloat16())
    assert set(seen) == {torch.float32}
    assert half.dtype == torch.bfloat16
    for other in (mixed, half):
        torch.testing.assert_close(other.float(), exact, rtol=0, atol=0.1 * float(exact.abs().max()))


def test_model_behaves_as_timm_models_do() -> None:
    model = small(in_chans=1, drop_path_rate=0.1, drop_rate=0.1)
    model.set_grad_checkpointing()
    x = images(2, 1, 64, 96)
    model.train()(x).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []

    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)
        features = model.forward_features(x)
        assert features.shape == (2, 128, 2, 3)
        torch.testing.assert_close(model.forward_head(features), model(x))
        assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)
        model.reset_classifier(0, "")
        assert model(x).shape == (2, 128, 2, 3)
    assert model.no_weight_decay() == set()


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for enable in (False, True):
        model = small()
        model.set_grad_checkpointing(enable)
        model.train()(images(1, 3, 64, 64)).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_features_are_those_of_the_stages() -> None:
    x, model = images(2, 3, 64, 64), small(features_only=True, out_indices=(0, 2, 3))
    assert model.feature_info.channels() == [16, 64, 128]
    assert model.feature_info.reduction() == [4, 16, 32]
    assert [tuple(f.shape) for f in model(x)] == [(2, 16, 16, 16), (2, 64, 4, 4), (2, 128, 2, 2)]
    model = small().eval()
    with torch.no_grad():
        final, features = model.forward_intermediates(x, norm=True)
        torch.testing.assert_close(final, model.forward_features(x))
        torch.testing.assert_close(features[-1], model.norm(final.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        early = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(early[0], features[1])


def test_layers_of_learning_rates_are_the_released_ones() -> None:
    """12 layers behind the stem: a stage each, but nine for the third one's 18 blocks."""
    model = timm.create_model("hornet_tiny_7x7", base_dim=16)
    layer = model.group_matcher()
    assert [layer(f"downsample_layers.{stage}.0.weight") for stage in range(4)] == [0, 2, 3, 12]
    assert [layer(f"stages.0.{block}.gamma1") for block in range(2)] == [1, 1]
    assert [layer(f"stages.1.{block}.gamma1") for block in range(3)] == [2, 2, 2]
    assert [layer(f"stages.2.{block}.gamma1") for block in range(18)] == [3 + block // 2 for block in range(18)]
    assert [layer(name) for name in ("stages.3.1.gamma1", "norm.weight", "head.bias")] == [12, 13, 13]
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    assert len({group["lr_scale"] for group in groups}) == 14


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"pretrained": True}, "Nothing is downloaded"),
        ({"img_size": 16}, "at least 32 pixels"),
        ({"base_dim": 9}, "order 2 halves its 9 channels 1 times; use a multiple of 2 channels"),
        ({"orders": (0, 1, 1, 1)}, "order 0"),
    ],
)
def test_mistakes_are_named(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        timm.create_model("hornet_tiny_7x7", depths=(1, 1, 1, 1), **kwargs)
    with pytest.raises(UserError, match="Did you mean hornet_tiny"):
        hornet.create("hornet_tiny")


def test_growth_tells_degrees_apart() -> None:
    x = images(1, 5, 4, 16).double()
    for n in (1, 3):
        mixer = GatedConvolution(16, n).double()
        assert order.growth_error(mixer, x, degree=n + 1) < order.TOLERANCE
        assert order.growth_error(mixer, x, degree=n) > 0.1
    biased = nn.Sequential(GatedConvolution(16, 2), nn.GELU()).double()
    assert order.growth_error(biased, x, degree=3) > 1e-3


def test_multiply_adds_of_an_order_are_those_of_its_widths() -> None:
    for n in order.ORDERS:
        counted = order.multiply_adds(GatedConvolution(32, n, kernel_size=3), side=6)
        assert counted == order.closed_form(32, n, side=6, kernel=3) < order.bound(32, side=6, kernel=3)


def test_networks_of_the_bench_are_of_equal_size_and_start_as_the_host() -> None:
    networks = {each.name: each.build().eval() for each in claims.contenders()}
    sizes = {name: sum(value.numel() for value in model.parameters()) for name, model in networks.items()}
    assert all(abs(size / sizes[mini.HOST] - 1) < 3e-3 for size in sizes.values())
    x = images(2, 3, 28, 28)
    for name, model in networks.items():
        assert model(x).shape == (2, 10)
        tokens = torch.randn(2, 49, 48)
        assert model.stages[1][0].attn(tokens).abs().max() == 0, name


def test_larger_images_are_classified_in_their_size() -> None:
    seen = []

    def classifier(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.mean(dim=(2, 3))

    module = nn.Module()
    module.forward = classifier  # type: ignore[method-assign]
    x = images(2, 3, 28, 28)
    torch.testing.assert_close(mini.Enlarged(module, 56)(x), x.mean(dim=(2, 3)))
    assert seen[0].shape == (2, 3, 56, 56)
    model = next(each for each in claims.contenders() if each.name == mini.GLOBAL).build().eval()
    assert mini.Enlarged(model, 56)(x).shape == (2, 10)


def test_pictured_filters_are_the_convolutions_that_are_computed() -> None:
    torch.manual_seed(0)
    part = GlobalFilter(4, (6, 6))
    amplitudes, kernels = mini.filters(nn.Sequential(part), count=2)
    assert kernels.shape == amplitudes.shape == (2, 6, 6)
    signal = torch.randn(2, 6, 6)
    spectrum = torch.fft.rfft2(signal, norm="ortho") * torch.view_as_complex(part.complex_weight.detach())
    filtered = torch.fft.irfft2(spectrum, s=(6, 6), norm="ortho")
    by_hand = torch.zeros(2, 6, 6)
    order_of = torch.fft.irfft2(torch.view_as_complex(part.complex_weight.detach()), s=(6, 6))
    order_of = order_of.square().sum(dim=(1, 2)).argsort(descending=True)
    for row in range(6):
        for column in range(6):
            shifted = signal[order_of].roll((row - 3, column - 3), dims=(1, 2))
            by_hand += kernels[:, row, column, None, None] * shifted
    torch.testing.assert_close(by_hand, filtered[order_of], rtol=1e-4, atol=1e-5)
