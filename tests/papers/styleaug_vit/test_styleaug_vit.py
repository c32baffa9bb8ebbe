"""StyleAug: parity of the style transfer, its loading, the hook, the bench's form."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from common import bench
from common.errors import UserError
from common.training.hooks import Batch, Training
from common.training.recipe import Recipe, load_recipe
from papers.styleaug_vit import claims
from papers.styleaug_vit.claims import RECIPE
from papers.styleaug_vit.training import AugMixViews, StyleAug, TwoViews, by_embeddings, by_textures, hooks
from papers.styleaug_vit.transfer import FILES, Predictor, StyleAugmentor, Transformer
from tests.parity import OUTPUT_TOLERANCE, Fixture, distance, fill

FIXTURE = Fixture.load("styleaug-vit", "style_transfer")


def recorded(name: str) -> Tensor:
    return torch.from_numpy(np.asarray(FIXTURE.arrays[name]))


def filled(network: torch.nn.Module, kind: str, prefix: str) -> dict[str, Tensor]:
    """The state that was recorded with, under the released names."""
    shapes = FIXTURE.about[f"state_{kind}"]
    assert {name: list(t.shape) for name, t in network.state_dict().items()} == shapes
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
            continue
        state[name] = fill(prefix + name, tuple(shape))
        if kind == "style_predictor" and name.endswith(".conv.weight"):
            state[name] = 1.75 * state[name]  # see fill_variation
    return state


@pytest.fixture(scope="module")
def augmentor() -> StyleAugmentor:
    made = StyleAugmentor(recorded("mean"), recorded("covariance")).eval()
    made.transformer.load_state_dict(filled(made.transformer, "transformer", "ghiasi."))
    made.predictor.load_state_dict(filled(made.predictor, "style_predictor", "stylePredictor."))
    return made


def test_sizes_are_the_released_ones() -> None:
    for network, key in ((Transformer(), "params_transformer"), (Predictor(), "params_style_predictor")):
        assert sum(p.numel() for p in network.parameters()) == FIXTURE.about[key]


def test_parity_of_predicted_styles(augmentor: StyleAugmentor) -> None:
    images = recorded("x_uint8").float() / 255
    with torch.no_grad():
        assert (
            distance(augmentor.predictor.preprocessed(images)[:, :, ::4, ::4], FIXTURE.arrays["preprocessed"])
            < OUTPUT_TOLERANCE
        )
        assert distance(augmentor.predictor.eval()(images), FIXTURE.arrays["base_eval"]) < OUTPUT_TOLERANCE
        kept = {name: tensor.clone() for name, tensor in augmentor.predictor.state_dict().items()}
        assert distance(augmentor.predictor.train()(images), FIXTURE.arrays["base_train"]) < OUTPUT_TOLERANCE
    augmentor.predictor.load_state_dict(kept)
    plain = Predictor(released_blue=False)
    torch.testing.assert_close(plain.preprocessed(images), 2 * images - 1)


def test_parity_of_restyled_images(augmentor: StyleAugmentor) -> None:
    images, alpha = recorded("x_uint8").float() / 255, FIXTURE.about["alpha"]
    embedding = recorded("embedding")
    with torch.no_grad():
        direct = augmentor.transformer(images, embedding)
        assert distance(direct[:, :, ::2, ::2], FIXTURE.arrays["restyled_direct"]) < OUTPUT_TOLERANCE
        restyled = augmentor(images, embedding, alpha)
        assert distance(restyled[:, :, ::2, ::2], FIXTURE.arrays["restyled_eval"]) < OUTPUT_TOLERANCE
        mean_base = augmentor.transformer(images, recorded("imagenet_embedding").lerp(embedding, alpha))
        assert distance(mean_base[:, :, ::2, ::2], FIXTURE.arrays["restyled_mean_base"]) < OUTPUT_TOLERANCE


def test_parity_of_random_styles(augmentor: StyleAugmentor) -> None:
    # The sign of singular vectors is arbitrary, so the release's own root is taken for its draws.
    root, normal = recorded("a_matrix"), recorded("normal")
    assert distance(augmentor.root @ augmentor.root.T, (root @ root.T).numpy()) < OUTPUT_TOLERANCE
    assert distance(normal @ root.T + recorded("mean"), FIXTURE.arrays["embedding"]) < OUTPUT_TOLERANCE
    own = augmentor.root
    augmentor.root = root
    assert distance(augmentor.sample(normal), FIXTURE.arrays["embedding"]) < OUTPUT_TOLERANCE
    augmentor.root = own


def write(folder: Path, augmentor: StyleAugmentor) -> None:
    """Files as the release has them, with tensors that it leaves out when it loads."""
    extra = {"unused.weight": torch.zeros(1)}
    torch.save({"state_dict_ghiasi": {**augmentor.transformer.state_dict(), **extra}}, folder / FILES[0])
    torch.save({"state_dict_stylepredictor": {**augmentor.predictor.state_dict(), **extra}}, folder / FILES[1])
    torch.save(
        {
            "pbn_embedding_mean": recorded("mean"),
            "pbn_embedding_covariance": recorded("covariance").double(),
            "imagenet_embedding_mean": recorded("imagenet_embedding"),
        },
        folder / FILES[2],
    )


def recipe(*changes: str) -> Recipe:
    return load_recipe(RECIPE, "imagenet", changes=changes)


def test_released_files_load_and_train(augmentor: StyleAugmentor, tmp_path: Path) -> None:
    write(tmp_path, augmentor)
    (hook,) = hooks(recipe(f"method.weights={tmp_path}"))
    assert isinstance(hook, StyleAug)
    assert hook.copies == 2
    hook.start(cast("Training", SimpleNamespace(device=torch.device("cpu"))))
    assert hook.augment(torch.from_numpy(FIXTURE.arrays["x_uint8"])).shape == (3, 3, 80, 80)
    pixels = torch.from_numpy(FIXTURE.arrays["x_uint8"])
    loaded = StyleAugmentor.load(tmp_path)
    first, again = (
        by_embeddings(pixels, torch.Generator().manual_seed(1), augmentor=loaded, strength=0.5) for _ in range(2)
    )
    assert first.dtype == torch.uint8
    assert first.shape == pixels.shape
    assert torch.equal(first, again)
    (tmp_path / FILES[1]).unlink()
    with pytest.raises(UserError, match=r"lacks checkpoint_stylepredictor\.pth"):
        StyleAugmentor.load(tmp_path)
    torch.save({"state_dict_stylepredictor": {}}, tmp_path / FILES[1])
    with pytest.raises(UserError, match="are not those of StyleAug's release"):
        StyleAugmentor.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("method.strength=1.5", "method.network=bench"), "strength is between 0"),
        (("method.network=other",), "must be released or bench"),
        (("mixup=0.8", "mix_probability=1.0"), "set mixup=0"),
    ],
)
def test_recipes_that_cannot_be(changes: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        hooks(recipe(*changes))


def test_weights_are_asked_for_when_a_training_starts() -> None:
    (hook,) = hooks(recipe())
    with pytest.raises(UserError, match=r"needs released weights: --set method\.weights"):
        hook.start(cast("Training", SimpleNamespace(device=torch.device("cpu"))))


def test_textures_restyle_as_strongly_as_they_should() -> None:
    images = bench.test_set(True).clean[0, :20]

    def changed(strength: float) -> float:
        made = by_textures(images, torch.Generator().manual_seed(0), strength=strength)
        assert made.shape == images.shape
        assert torch.equal(made[:, 0], made[:, 2])
        return float((made.float() - images.float()).abs().mean())

    none, half, full = (changed(strength) for strength in (0.0, 0.5, 1.0))
    assert none < 10
    assert none < half < full


def test_both_views_have_the_label_and_should_agree() -> None:
    hook = TwoViews(2.0, (0.5,) * 3, (0.25,) * 3)
    hook.augment = lambda pixels: 255 - pixels  # type: ignore[method-assign]
    levels = torch.randint(0, 256, (4, 3, 8, 8))
    batch = Batch((levels / 255 - 0.5) / 0.25, torch.arange(4), torch.eye(4), None)
    run = cast("Training", SimpleNamespace(device="cpu"))
    hook.on_batch(run, batch)
    assert batch.labels.tolist() == [0, 1, 2, 3] * 2
    assert batch.targets.shape == (8, 4)
    torch.testing.assert_close(batch.images[4:], -batch.images[:4])
    one = torch.randn(4, 4)
    batch.logits = torch.cat([one, one])
    assert hook.on_loss(run, batch, torch.tensor(1.0)).item() == pytest.approx(1.0, abs=1e-5)
    batch.logits = torch.cat([one, -one])
    assert hook.on_loss(run, batch, torch.tensor(1.0)) > 1.01
    assert TwoViews(0.0, (0.5,), (0.5,)).on_loss(run, batch, torch.tensor(1.0)).item() == 1
    with pytest.raises(UserError, match="at least 0"):
        TwoViews(-1.0, (0.5,), (0.5,))


def test_contenders_differ_in_what_they_are_about() -> None:
    own = {contender.name: contender for contender in claims.contenders()}
    for name, kind, weight in (
        (claims.VIT_STYLE, StyleAug, 2.0),
        (claims.RESNET_STYLE, StyleAug, 2.0),
        (claims.VIT_AUGMIX, AugMixViews, 2.0),
        (claims.VIT_ALONE, StyleAug, 0.0),
    ):
        (hook,) = own[name].hooks(own[name].settings())
        assert isinstance(hook, kind)
        assert hook.consistency == weight
    (augmix,) = own[claims.VIT_AUGMIX].hooks(own[claims.VIT_AUGMIX].settings())
    assert isinstance(augmix, AugMixViews)
    pixels = bench.test_set(True).clean[0, :4]
    assert augmix.augment(pixels).shape == pixels.shape
