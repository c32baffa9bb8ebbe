"""Stylized-ImageNet: style transfer, the folder that it writes, networks, the embedded sets, what is measured on them.

Shape bias and the sixteen categories are held against the release in tests/robustness.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from common import bench
from common.bench import stylised
from common.checkpoints import load_released
from common.errors import UserError
from common.shapes import shapes_only
from common.style_transfer import adain, moments
from common.training.data import TensorData
from papers._commands import dispatch
from papers.stylized_imagenet import claims, experiment, style
from papers.stylized_imagenet.folder import stylise_folder
from papers.stylized_imagenet.mini import RECEPTIVE_FIELD, bagnet_mini
from papers.stylized_imagenet.model import checkpoint_filter_fn, create
from papers.stylized_imagenet.style import StyleTransfer


def test_layers_are_those_of_the_released_files() -> None:
    with shapes_only():
        state = {name: tuple(t.shape) for name, t in style.encoder().state_dict().items()}
        decoder = {name: tuple(t.shape) for name, t in style.decoder().state_dict().items()}
    weights = {name: shape for name, shape in state.items() if name.endswith("weight")}
    assert list(weights) == [f"{i}.weight" for i in (0, 2, 5, 9, 12, 16, 19, 22, 25, 29)]
    assert weights["0.weight"] == (3, 3, 1, 1)
    assert weights["29.weight"] == (512, 256, 3, 3)
    weights = {name: shape for name, shape in decoder.items() if name.endswith("weight")}
    assert list(weights) == [f"{i}.weight" for i in (1, 5, 8, 11, 14, 18, 21, 25, 28)]
    assert weights["1.weight"] == (256, 512, 3, 3)
    assert weights["28.weight"] == (3, 64, 3, 3)


def test_features_get_the_moments_of_the_style() -> None:
    content, other = torch.randn(2, 5, 6, 7), 3 * torch.randn(2, 5, 4, 4) - 1
    restyled = adain(content, other)
    for ours, theirs in zip(moments(restyled), moments(other), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(adain(content, other, 0.0), content)
    torch.testing.assert_close(adain(content, other, 0.25), 0.75 * content + 0.25 * restyled)
    # A deviation is over n - 1 places, as in the release.
    assert moments(torch.tensor([0.0, 2.0]).view(1, 1, 1, 2))[1].item() == pytest.approx(2**0.5, rel=1e-4)


def small_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Weights of a narrow encoder and decoder, and of layers beyond, as the released file of VGG-19 has them."""
    monkeypatch.setattr(style, "ENCODER", (4, 0, 8, 0, 8, 0, 8))
    monkeypatch.setattr(style, "DECODER", (8, 0, 8, 0, 4, 0, 3))
    made = style._layers
    monkeypatch.setattr(style, "_layers", lambda channels, *rest: made(8 if channels == 512 else channels, *rest))
    files = folder / "vgg_normalised.pth", folder / "decoder.pth"
    for file, network in zip(files, (style.encoder(), style.decoder()), strict=True):
        torch.save({**network.state_dict(), "99.weight": torch.zeros(1)}, file)
    return files


def pictures(folder: Path, names: list[str], seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_a_folder_is_stylised_once_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = small_files(tmp_path, monkeypatch)
    source = pictures(tmp_path / "source", ["cat/a.jpg", "cat/b.png", "dog/c.jpg"])
    paintings = pictures(tmp_path / "paintings", ["one.png", "more/two.png"], seed=1)
    target = tmp_path / "target"
    command = ["stylise", str(source), str(target), "--paintings", str(paintings), "--crop", "32", "--device", "cpu"]
    command += ["--encoder", str(files[0]), "--decoder", str(files[1])]
    assert dispatch(command) == 0
    written = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*.png")}
    assert set(written) == {"cat/a.png", "cat/b.png", "dog/c.png"}
    assert Image.open(target / "cat/a.png").size == (32, 32)
    (target / "cat/b.png").unlink()
    transfer = StyleTransfer(*files)
    assert stylise_folder(source, target, paintings, transfer, crop=32) == 1
    assert (target / "cat/b.png").read_bytes() == written["cat/b.png"], "the painting follows from path and seed"
    (source / "dog/broken.jpg").write_bytes(b"no image")
    pictures(source, ["dog/d.jpg"])
    with pytest.raises(UserError, match=r"cannot be read: .*broken\.jpg"):
        stylise_folder(source, target, paintings, transfer, crop=32)
    assert (target / "dog/d.png").exists(), "all others are written"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: (t / "source", t / "source" / "in"), "lies inside the source"),
        (lambda t: (t / "paintings", t / "target"), "folder"),
        (lambda t: (t / "empty", t / "target"), "no images"),
    ],
)
def test_folders_that_cannot_be_stylised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], tuple[Path, Path]], message: str
) -> None:
    transfer = StyleTransfer(*small_files(tmp_path, monkeypatch))
    pictures(tmp_path / "source", ["cat/a.jpg"])
    paintings = pictures(tmp_path / "paintings", ["one.png"])
    (tmp_path / "empty").mkdir()
    source, target = change(tmp_path)
    with pytest.raises(UserError, match=message):
        stylise_folder(source, target, paintings, transfer)
    with pytest.raises(UserError, match="multiple of 8"):
        stylise_folder(tmp_path / "source", tmp_path / "target", paintings, transfer, crop=30)


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, decoder = small_files(tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"is not the encoder vgg_normalised\.pth"):
        StyleTransfer(decoder, encoder)


def test_released_names_of_both_networks_load() -> None:
    with shapes_only():
        model = create("resnet50_stylized")
        released = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
        load_released(model, {"state_dict": released})
    assert cast(Any, model).pretrained_cfg["crop_pct"] == 0.875
    state = {"features.module.0.weight": torch.zeros(1), "classifier.3.weight": torch.zeros(4096, 4096)}
    names = checkpoint_filter_fn(state, nn.Identity())
    assert {name: tuple(t.shape) for name, t in names.items()} == {
        "features.0.weight": (1,),
        "pre_logits.fc2.weight": (4096, 4096, 1, 1),
    }
    with pytest.raises(UserError, match="no network"):
        create("resnet51_stylized")
    with pytest.raises(UserError, match="--checkpoint"):
        create("resnet50_stylized", pretrained=True)


def test_bagnet_sees_small_parts() -> None:
    torch.manual_seed(0)
    image = torch.rand(8, 3, 28, 28, requires_grad=True)
    for network, sees in ((bagnet_mini(), RECEPTIVE_FIELD), (bench.hosts.resnet_mini(), 23)):
        features = network.eval().forward_features(image)
        (gradient,) = torch.autograd.grad(features[:, :, 3, 3].sum(), image)
        rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
        assert rows[-1] - rows[0] + 1 == sees


def test_both_kinds_are_trained_on_together(monkeypatch: pytest.MonkeyPatch) -> None:
    small = []
    for kind in range(2):
        images, labels = torch.full((2, 1, 4, 4), kind, dtype=torch.uint8), torch.tensor([kind, kind])
        small.append(TensorData(images, labels, images, labels))
    monkeypatch.setattr(experiment.bench, "training_data", lambda: small[0])
    monkeypatch.setattr(experiment, "stylised_garments", lambda: small[1])
    images, labels = experiment.both.__wrapped__().train
    assert images[:, 0, 0, 0].tolist() == labels.tolist() == [0, 0, 1, 1]


def test_embedded_sets() -> None:
    plain, styled = bench.training_data(), experiment.stylised_garments()
    assert styled.train[0].shape == plain.train[0].shape
    assert torch.equal(styled.train[1], plain.train[1])
    assert styled.validation[0] is plain.validation[0]
    images, labels = stylised.test_images(True)
    tests = bench.test_set(True)
    assert images.shape == (stylised.CELLS, *tests.clean.shape[1:])
    assert torch.equal(labels, tests.labels[: stylised.CELLS])
    # Backgrounds are no longer black, and garments still stand out from them.
    restyled, before = images[:, :, 0].float(), tests.clean[: stylised.CELLS, :, 0]
    assert restyled[before == 0].std() > 20
    assert restyled[before > 128].mean() > restyled[before == 0].mean() + 20


class ByBrightness(nn.Module):
    """Class 1 for bright images."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([images.new_zeros(len(images)), images.mean(dim=(1, 2, 3))], dim=1)


def test_what_is_measured() -> None:
    recipe = bench.host("resnet_mini").settings(quick=True)
    found = experiment.measure(ByBrightness(), recipe, quick=True)
    assert np.shape(found["top1"]) == (bench.SUBSETS, 50)
    assert np.shape(found["stylised_top1"]) == (stylised.CELLS, 50)
    assert {"shape_bias", "silhouette_top1", "corruption_top1/gaussian_noise/1"} <= set(found)
    values = {"top1": np.arange(20.0)[:, None], "stylised_top1": np.arange(4.0)[:, None] + 100}
    assert claims._unseen(values, trained_stylised=True).ravel().tolist() == [0, 1, 2, 3]
    assert claims._unseen(values, trained_stylised=False).ravel().tolist() == [100, 101, 102, 103]
