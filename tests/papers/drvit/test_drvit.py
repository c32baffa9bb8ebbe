"""Dr. ViT: parity with the released networks, and what code words do and do not change under."""

from __future__ import annotations

import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from common import bench
from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.shapes import shapes_only
from common.training.recipe import load_recipe
from papers.drvit import claims, invariance, mini, quantiser, training
from papers.drvit.model import WORDS, CodeEmbed, Codes, DiscreteVisionTransformer
from papers.drvit.released import released_state_dict
from papers.drvit.vq import Decoder, Encoder, margin, nearest_code, quantisation_loss
from tests.parity import OUTPUT_TOLERANCE, Fixture, check_gradients, distance, fill, images


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value of a released tensor, as the fixtures' ``fill_variation`` tells."""
    leaf = name.rpartition("/")[2]
    if leaf == "kernel":
        if len(shape) == 4:
            height, width, before, out = shape
            return fill(name, (out, before, height, width)).permute(2, 3, 1, 0)
        if "/out/" in name:
            return fill(name, (shape[2], shape[0] * shape[1])).T.reshape(shape)
        if len(shape) == 3:
            return fill(name, (shape[1] * shape[2], shape[0])).T.reshape(shape)
        return fill(name, shape[::-1]).T
    scale = {"code_embedding_delta": 0.1, "codebook": 0.5, "cls": 0.5, "pos_embedding": 0.5, "bias": 0.02}.get(
        leaf, 0.1
    )
    suffix = ".weight" if leaf == "scale" else ""
    noise = normal(name + suffix, shape)
    return 1 + 0.1 * noise if leaf == "scale" else scale * noise


def normal(name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, seeded by a name as in ``fill``."""
    generator = np.random.Generator(np.random.Philox(zlib.crc32(name.encode())))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


def recorded_model(about: dict[str, Any]) -> DiscreteVisionTransformer:
    config = about["config"]
    model, vq = config["model"], config["vqvae"]
    return DiscreteVisionTransformer(
        img_size=about["image_size"],
        patch_size=model["patches"]["size"][0],
        num_classes=about["classes"],
        embed_dim=model["hidden_size"],
        depth=model["num_layers"],
        num_heads=model["num_heads"],
        mlp_ratio=model["mlp_dim"] / model["hidden_size"],
        fusion_dim=config["fusion_dim"] if config["is_fusion"] else 0,
        words=vq["codebook_size"],
        vqgan={
            "code_dim": vq["embedding_dim"],
            "filters": vq["filters"],
            "multipliers": vq["channel_multipliers"],
            "depth": vq["num_res_blocks"],
        },
    )


def channels_first(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.moveaxis(array, -1, -3).copy())


@pytest.mark.parametrize("name", ["discrete_vit", "fusion_vit"])
def test_networks_are_the_released_ones(name: str) -> None:
    fixture = Fixture.load("drvit", name)
    about, arrays = fixture.about, fixture.arrays
    state = {key: filled(key, tuple(shape)) for key, shape in about["state"].items()}
    model: Any = load_released(recorded_model(about), state).eval()
    returned = to_released(model)
    assert set(returned) == set(state)
    assert all(torch.equal(returned[key], value) for key, value in state.items())

    x = channels_first(arrays["x"])
    embed = model.patch_embed
    assert distance(embed.codes.features(x), arrays["encoder_features"]) < OUTPUT_TOLERANCE
    assert np.array_equal(embed.codes.indices(x).numpy(), arrays["code"])
    tokens = model._pos_embed(embed(x))
    assert distance(tokens, arrays["tokens"]) < OUTPUT_TOLERANCE
    logits = model(x)
    assert distance(logits, arrays["logits"]) < OUTPUT_TOLERANCE
    (logits * images(1, 1, len(logits), logits.shape[1], 7)[0, 0]).sum().backward()
    gradients = {
        key: p.grad if p.grad is not None else torch.full_like(p, torch.nan) for key, p in model.named_parameters()
    }
    norms = {key: value.norm().item() for key, value in released_state_dict(gradients, model).items()}
    check_gradients({key: value for key, value in norms.items() if value == value}, fixture)


@pytest.mark.parametrize("name", ["token_fusion", "token_fusion_narrow"])
def test_fused_tokens_are_the_released_ones(name: str) -> None:
    fixture = Fixture.load("drvit", name)
    about, arrays = fixture.about, fixture.arrays

    class Recorded(Codes):
        def forward(self, images: Tensor) -> Tensor:
            return channels_first(arrays["code_embedding"])

    codes = Recorded(Encoder(about["code_dim"], 32, (1,), 1), words=4)
    side = about["grid"] * about["patch"]
    embed: Any = CodeEmbed(side, about["patch"], 3, about["hidden_size"], fusion_dim=about["fusion_dim"], codes=codes)
    assert embed.proj.out_channels == about["pixel_dims"]
    with torch.no_grad():
        embed.proj.weight.copy_(torch.from_numpy(arrays["embedding_kernel"]).permute(3, 2, 0, 1))
        embed.proj.bias.copy_(torch.from_numpy(arrays["embedding_bias"]))
        tokens = embed(channels_first(arrays["image"]))
    cls = torch.from_numpy(arrays["cls"]).expand(len(tokens), -1, -1)
    tokens = torch.cat([cls, tokens], dim=1) + torch.from_numpy(arrays["pos_embedding"])
    assert distance(tokens, arrays["tokens"]) < OUTPUT_TOLERANCE


#: A narrow encoder for small networks: 8 pixels a place, 8 words of 4 channels.
SMALL: dict[str, Any] = {"code_dim": 4, "filters": 8, "multipliers": (1, 1, 2, 2), "depth": 1, "groups": 4}


def small(name: str = "drvit_base_patch16_224", **changes: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"patch_size": 8, "img_size": 32, "num_classes": 7, "embed_dim": 24, "words": 8}
    sizes |= {"num_blocks": 1} if "mixer" in name else {"depth": 1, "num_heads": 3}
    return timm.create_model(name, **{**sizes, "vqgan": SMALL, "fusion_dim": 8, **changes}).eval()


@pytest.mark.parametrize(
    "name", ["drvit_base_patch16_224", "discrete_vit_base_patch16_224", "drmixer_base_patch16_224"]
)
def test_released_names_load_strictly_and_come_back(name: str) -> None:
    changes = {"fusion_dim": 0} if name.startswith("discrete") else {}
    model, other = small(name, **changes), small(name, **changes)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    state = to_released(model)
    assert {"vit/output_projection/kernel", "vqgan/encoder/ResBlock_2/Conv_2/kernel"} <= set(state)
    assert all("/" in key or key == "code_embedding_delta" for key in state)
    # A file of the release has the decoder of its autoencoder, too.
    load_released(other, {**state, "vqgan/decoder/Conv_0/kernel": torch.zeros(3, 3, 4, 16)})
    x = images(2, 3, 32, 32)
    assert torch.equal(model(x), other(x))
    with pytest.raises(UserError, match="missing"):
        load_released(other, {key: value for key, value in state.items() if key != "vit/output_projection/kernel"})
    for key in ("vit/output_projection/kernel", "vqgan/encoder/Conv_0/kernel"):
        with pytest.raises(UserError, match=r"axes in a released file and is \[3, 3, 3\] in this one"):
            load_released(other, {**state, key: torch.zeros(3, 3, 3)})
    with pytest.raises(UserError, match="surplus"):
        load_released(other, {**state, "vit/surplus": torch.zeros(1)})


def test_positions_of_a_released_file_serve_images_of_another_size() -> None:
    state = to_released(small())
    larger: Any = load_released(small(img_size=64), state)
    corners = larger.pos_embed[0, 1:].unflatten(0, (8, 8))[::7, ::7]
    own = state["vit/Transformer/posembed_input/pos_embedding"][0, 1:].unflatten(0, (4, 4))[::3, ::3]
    torch.testing.assert_close(corners, own)
    assert larger(images(1, 3, 64, 64)).shape == (1, 7)


def test_networks_are_used_as_those_of_timm() -> None:
    x = images(1, 3, 32, 32)
    model = small()
    model.set_grad_checkpointing()
    model.reset_classifier(5)
    assert model(x).shape == (1, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.patch_embed.codes.features(x).dtype == torch.float32
        assert model(x).dtype == torch.bfloat16
    assert small(features_only=True, depth=3)(x)[-1].shape == (1, 24, 4, 4)
    mixer = small("drmixer_base_patch16_224", features_only=True, num_blocks=3)
    assert [one.shape for one in mixer(x)] == 3 * [(1, 24, 4, 4)]
    assert small(dynamic_img_size=True)(images(1, 3, 40, 48)).shape == (1, 7)
    exported = torch.export.export(small(), (x,)).module()
    torch.testing.assert_close(exported(x), small()(x))
    model = small(hybrid=True, patch_size=16, vqgan={**SMALL, "multipliers": (1, 1, 1, 2, 2)})
    assert model(x).shape == (1, 7)


def test_wrong_use_is_one_sentence() -> None:
    with pytest.raises(UserError, match="img_size"):
        small()(images(1, 3, 40, 40))
    with pytest.raises(UserError, match="no room for pixels"):
        small(embed_dim=5, num_heads=1)
    with pytest.raises(UserError, match="3 channels"):
        small(in_chans=1)
    with pytest.raises(UserError, match="stand for 8 pixels on a side, patches are to be of 16: choose patch_size=8"):
        small(patch_size=16)
    with pytest.raises(UserError, match="patch_size"):
        small().set_input_size(patch_size=4)
    with pytest.raises(UserError, match="drvit_small"):
        timm.create_model("drvit_small_patch16_224", pretrained=True)


def test_a_code_word_is_the_nearest_and_of_a_tie_the_first() -> None:
    codebook = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert nearest_code(torch.tensor([[0.2, 3.0], [0.0, 1.0], [-0.1, 0.0]]), codebook).tolist() == [0, 0, 1]
    # Between two words that are 2 apart, a feature at 0.2 has 0.2 to the border; a word of the same place has none.
    assert margin(torch.tensor([[0.2, 3.0]]), codebook).item() == pytest.approx(0.2)


def test_exact_claims_hold_and_would_not_with_another_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = SimpleNamespace(settings=SimpleNamespace(seed=3))
    found: list[Any] = [*claims.invariance(run), *claims.fusion(run)]
    assert [finding.verdict for finding in found] == ["holds"] * 3
    for factor in (0.9, 1.1):
        monkeypatch.setattr(invariance, "margin", lambda z, e, factor=factor: factor * margin(z, e))
        finding: Any = next(claims.invariance(run))
        assert finding.verdict == "does not hold"


def test_code_words_shield_from_perturbations_within_the_margin() -> None:
    model, x = small("discrete_vit_base_patch16_224", fusion_dim=0), images(2, 3, 32, 32)
    other = x + 1e-6 * images(2, 3, 32, 32, seed=1)
    codes = model.patch_embed.codes
    assert not torch.equal(codes.features(x), codes.features(other))
    assert torch.equal(codes.indices(x), codes.indices(other))
    assert torch.equal(model(x), model(other))
    pixels = small()
    assert not torch.equal(pixels(x), pixels(other))


def test_quantisation_moves_words_and_features_towards_each_other() -> None:
    torch.manual_seed(0)
    features, codebook = torch.randn(64, 4, requires_grad=True), torch.randn(8, 4, requires_grad=True)
    loss, chosen = quantisation_loss(features, codebook, entropy=0.0)
    assert torch.equal(chosen.detach(), codebook[nearest_code(features, codebook)].detach()) or torch.allclose(
        chosen, codebook[nearest_code(features, codebook)], atol=1e-6
    )
    toward = codebook[nearest_code(features, codebook)] - features
    of_features, of_words = torch.autograd.grad(loss, (features, codebook))
    torch.testing.assert_close(of_features, -0.25 * 2 * toward / features.numel())
    assert of_words.abs().sum() > 0
    # Straight through: the gradient of what follows is the features' own.
    assert torch.equal(
        torch.autograd.grad(quantisation_loss(features, codebook)[1].sum(), features)[0], torch.ones(64, 4)
    )
    # Words that are all alike have the largest entropy of a single choice.
    alike = quantisation_loss(features, torch.zeros(8, 4), 0.0, 1.0, 1.0)[0] - features.square().mean()
    assert alike.item() == pytest.approx(0.0, abs=1e-3)


def test_the_decoder_gives_images_of_the_encoders_size() -> None:
    x = torch.rand(1, 3, 32, 32)
    assert Decoder(**SMALL)(Encoder(**SMALL)(x)).shape == x.shape
    assert Decoder(**quantiser.SIZES)(Encoder(**quantiser.SIZES)(x)).shape == x.shape


def test_the_quantiser_learns_to_reconstruct() -> None:
    def error(steps: int) -> float:
        return quantiser.train(Encoder(**quantiser.SIZES), torch.empty(quantiser.WORDS, 16), steps)

    assert error(6) < error(1)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contenders with an encoder that has learnt nothing, in no time."""
    torch.manual_seed(0)
    state = Encoder(**quantiser.SIZES), torch.randn(quantiser.WORDS, 16)
    monkeypatch.setattr(mini, "quantiser", lambda: state)


@pytest.mark.usefixtures("untrained")
def test_contenders_differ_in_their_tokens_alone() -> None:
    x = torch.rand(2, 3, 28, 28)
    models: tuple[Any, ...] = mini.vit(), mini.vit(fusion_dim=0), mini.vit(discrete=False)
    both, alone, features = models
    tokens = both.patch_embed(x)
    assert tokens.shape == (2, 49, 48)
    assert not tokens[..., 32:].any()
    assert torch.equal(
        tokens[..., 16:32].flatten(0, 1)[0], both.patch_embed.codes.codebook[both.patch_embed.codes.indices(x)[0, 0, 0]]
    )
    assert not torch.equal(features.patch_embed(x)[..., 16:32], tokens[..., 16:32])
    assert alone.patch_embed(x).shape == (2, 49, 48)
    for model in models:
        model(x).sum().backward()
        assert {name.split(".")[1] for name, p in model.named_parameters() if p.grad is None} == {"codes"}


def test_shuffled_positions_are_put_back() -> None:
    model: Any = bench.hosts.vit_mini().eval()
    nn.init.normal_(model.pos_embed)
    before, x = model.pos_embed.clone(), torch.rand(1, 3, 28, 28)
    plain = model(x)
    with torch.no_grad():
        shuffled = mini.with_shuffled_positions(model, lambda: model(x).numpy(), seed=0)
    assert not np.allclose(shuffled, plain.detach().numpy())
    assert torch.equal(model.pos_embed, before)


def test_the_encoder_comes_from_the_users_file(tmp_path: Path) -> None:
    donor, model = small(), small()
    nn.init.normal_(donor.patch_embed.codes.codebook)
    file = tmp_path / "vqgan.npz"
    state = {key.removeprefix("vqgan/"): value for key, value in to_released(donor).items() if key.startswith("vqgan/")}
    np.savez(file, **{key: value.numpy() for key, value in state.items()})  # type: ignore[arg-type]
    recipe = Path(training.__file__).with_name("recipe.toml")
    name = "drvit_base_patch16_224"
    encoder, offsets, *others = training.hooks(load_recipe(recipe, "imagenet", model=name))
    with pytest.raises(UserError, match=r"method\.vqgan"):
        encoder.on_model(None, model)  # type: ignore[arg-type]
    training.FrozenEncoder(str(file)).on_model(None, model)  # type: ignore[arg-type]
    assert torch.equal(model.patch_embed.codes.codebook, donor.patch_embed.codes.codebook)
    assert isinstance(offsets, training.SlowOffsets)
    assert len(others) == 3
    with pytest.raises(UserError, match="tuned, frozen"):
        training.hooks(load_recipe(recipe, "imagenet", model=name, changes=("method.codes=tunde",)))
    np.savez(file, **{key: value.numpy() for key, value in state.items() if "codebook" not in key})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="codebook"):
        training.FrozenEncoder(str(file)).on_model(None, model)  # type: ignore[arg-type]


def test_offsets_of_words_learn_at_a_hundredth_of_the_rate() -> None:
    model = small()
    delta = model.patch_embed.codes.delta
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    hook: Any = training.SlowOffsets()
    run: Any = SimpleNamespace(plain_model=model)
    hook.start(run)
    for step in (1, 2):
        delta.grad = torch.ones_like(delta)
        optimizer.step()
        hook.on_step(run)
        torch.testing.assert_close(delta, torch.full_like(delta, -0.01 * step))
    training.FrozenOffsets().on_model(run, model)
    assert not delta.requires_grad


def test_the_released_sizes_are_those_of_its_configurations() -> None:
    with shapes_only():
        model: Any = timm.create_model("drvit_base_patch16_224")
    assert (model.patch_embed.proj.out_channels, model.patch_embed.codes.codebook.shape) == (32, (WORDS, 256))
    state = to_released(model)
    assert state["vqgan/encoder/Conv_1/kernel"].shape == (1, 1, 512, 256)
    assert (
        len([key for key in state if key.startswith("vqgan/encoder/ResBlock_") and key.endswith("/Conv_0/kernel")])
        == 12
    )
