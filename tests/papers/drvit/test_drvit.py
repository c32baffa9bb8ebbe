"""Dr. ViT: parity with the released networks, and what code words do and do not change under."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.checkpoints import load_released, to_released
from papers.drvit.model import CodeEmbed, Codes, DiscreteVisionTransformer
from papers.drvit.vq import Encoder
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
    scale = {"code_embedding_delta": 0.1, "codebook": 0.5, "cls": 0.5, "pos_embedding": 0.5, "bias": 0.02}.get(leaf, 0.1)
    suffix = ".weight" if leaf == "scale" else ""
    noise = normal(name + suffix, shape)
    return 1 + 0.1 * noise if leaf == "scale" else scale * noise


def normal(name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, seeded by a name as in ``fill``."""
    import zlib

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
    model = load_released(recorded_model(about), state).eval()
    returned = to_released(model)
    assert set(returned) == set(state)
    assert all(torch.equal(returned[key], value) for key, value in state.items())

    x = channels_first(arrays["x"])
    embed: Any = model.patch_embed
    assert distance(embed.codes.features(x), arrays["encoder_features"]) < OUTPUT_TOLERANCE
    assert np.array_equal(embed.codes.indices(x).numpy(), arrays["code"])
    tokens = model._pos_embed(embed(x))
    assert distance(tokens, arrays["tokens"]) < OUTPUT_TOLERANCE
    logits = model(x)
    assert distance(logits, arrays["logits"]) < OUTPUT_TOLERANCE
    (logits * images(1, 1, *logits.shape, seed=7)[0, 0]).sum().backward()
    gradients = {key: p.grad if p.grad is not None else torch.full_like(p, torch.nan) for key, p in model.named_parameters()}
    from papers.drvit.released import released_state_dict

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
    embed = CodeEmbed(side, about["patch"], 3, about["hidden_size"], fusion_dim=about["fusion_dim"], codes=codes)
    assert embed.proj.out_channels == about["pixel_dims"]
    with torch.no_grad():
        embed.proj.weight.copy_(torch.from_numpy(arrays["embedding_kernel"]).permute(3, 2, 0, 1))
        embed.proj.bias.copy_(torch.from_numpy(arrays["embedding_bias"]))
        tokens = embed(channels_first(arrays["image"]))
    cls = torch.from_numpy(arrays["cls"]).expand(len(tokens), -1, -1)
    tokens = torch.cat([cls, tokens], dim=1) + torch.from_numpy(arrays["pos_embedding"])
    assert distance(tokens, arrays["tokens"]) < OUTPUT_TOLERANCE
