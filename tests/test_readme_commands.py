"""What READMEs tell to run: every command is parsed, and Python compiled; much is run, on stand-ins for data.

Commands of the README of all, and of one paper of each kind (``CHEAP``), are run as ``EXERCISES`` says. Of other papers
nothing needs to be said here. Python of a paper's README is run where ``readme.py`` beside the paper's tests says what
it takes for granted (``tests.readmes``).
"""

from __future__ import annotations

import importlib
import itertools
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import papers
from common.checkpoints import to_released
from common.robustness.benchmarks.classes import imagenet_wnids, sixteen_classes
from common.robustness.full_scale import CLAIMS as FULL_SCALE
from common.run import Run, Settings
from common.training import command
from common.training.recipe import settings
from papers.__main__ import main
from papers._commands import COMMANDS, new, parse, reproduce
from results import judge, measured
from results.measured import each
from tests.readmes import Snippet, images
from tests.robustness.stand_ins import ColourModel, class_folders, imagenet_family

CHECKOUT = Path(__file__).resolve().parents[1]
READMES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "papers").glob("**/README.md"))]
#: One paper of each kind, with the cheapest of its claims; those that train are measured by tests of their own.
CHEAP = {
    "vars": "identity",
    "fan": "size",
    "transmix": "identity",
    "augmix": "divergence",
    "unrolling": "vars_is_unrolled",
    "simclr": "loss",
    "intriguing-vit": "permutation_invariance",
}
SLUG = f"(?P<slug>{'|'.join(CHEAP)})"
#: Few images; loading in this process.
CUT = ("--limit", "2", "--workers", "0")


@dataclass
class Place:
    """What an exercise works with: the command's words, its match in the table, and where to write."""

    words: list[str]
    found: re.Match[str]
    folder: Path
    data: dict[str, Path]
    monkeypatch: pytest.MonkeyPatch

    def filled(self, *added: str, **values: Path) -> list[str]:
        """The words with ``DIR`` after ``--imagenet-c`` and so on, and other placeholders, replaced."""
        words = [
            str(
                self.data[option.removeprefix("--")] if word == "DIR" and option != "--data" else values.get(word, word)
            )
            for option, word in zip(["", *self.words], self.words, strict=False)
        ]
        return [*words, *added]


def checkpoint(folder: Path, model: str, name: str = "released.pth", num_classes: int = 1000) -> Path:
    """A file in the released format, with random weights."""
    torch.manual_seed(0)
    built = timm.create_model(model, num_classes=num_classes)
    state = to_released(built)
    if name.endswith(".npz"):
        np.savez(folder / name, **{key: value.numpy() for key, value in state.items()})  # type: ignore[arg-type]
    else:
        torch.save({"model": state, "epoch": 300}, folder / name)
    return folder / name


def exists_only(place: Place) -> None:
    """Not run: what it calls takes minutes, or is this test. It has tests of its own in ``tests/cli``."""
    assert place.words[0] in COMMANDS


def prints(place: Place) -> None:
    assert main(place.words) == 0


def renews(place: Place) -> None:
    """Without writing: the sections are up to date in what is committed."""
    assert main([*place.words, "--check"]) == 0


def measures(place: Place) -> None:
    """The claims but the cheapest are left out: together they take minutes."""
    run = place.folder / "run"
    words = [word for word in place.words if word != "--quick"]
    status = main([*words, "--quick", "--claims", CHEAP[place.found["slug"]], "--output", str(run)])
    outcomes = {case.get("name"): case for case in ElementTree.parse(run / "junit.xml").iter("testcase")}
    failed = [name for name, case in outcomes.items() if case.find("failure") is not None]
    assert status == (1 if failed else 0)
    assert (run / "report.html").is_file()


def is_measured(place: Place) -> None:
    """``measures`` runs with ``--quick`` what is told without."""
    assert place.found["slug"] in TOLD


def resumes(place: Place) -> None:
    slug = place.found["slug"]
    claims = ("--claims", CHEAP[slug], "--quick")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with place.monkeypatch.context() as patch:
        patch.setattr(Run, "_measure", interrupted)
        assert main([slug, *claims]) == 130
    assert main([*place.words, *claims]) == 0
    assert len(list((place.folder / "runs" / slug).iterdir())) == 1


def compares(place: Place) -> None:
    old, new_run = place.folder / "old", place.folder / "new"
    assert main(["vars", "--quick", "--claims", CHEAP["vars"], "--output", str(old)]) == 0
    shutil.copytree(old, new_run)
    assert main(place.filled(OLD=old, NEW=new_run)) == 0


def writes_a_paper(place: Place) -> None:
    """What the skeleton is worth is tested by ``test_skeleton_passes_the_checks``."""
    place.monkeypatch.setattr(new, "PAPERS", place.folder)
    assert main(place.words) == 0


def measures_a_timm_model(place: Place) -> None:
    """With a stand-in for timm's weights, which would be downloaded."""
    build = timm.create_model

    class StandIn(ColourModel):
        pretrained_cfg = {"input_size": (3, 16, 16), "crop_pct": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}

    def create(name: str, pretrained: bool = False, **options: object) -> torch.nn.Module:
        return StandIn() if pretrained else build(name, **options)

    place.monkeypatch.setattr(timm, "create_model", create)
    output = place.folder / "out"
    words = place.filled(*CUT, "--output", str(output), DIR=place.data["imagenet"])
    assert main([word.replace("=DIR", f"={place.data['imagenet']}") for word in words]) == 0
    assert (output / "results.json").is_file()


def measures_any_pictures(place: Place) -> None:
    """On folders of a part of ImageNet's classes."""
    words = [word.replace("DIR", str(place.data["imagenet-a"])) for word in place.words]
    given = {"NAME": "resnet18", "FILE": str(checkpoint(place.folder, "resnet18"))}
    output = place.folder / "out"
    assert main([*(given.get(word, word) for word in words), *CUT, "--output", str(output)]) == 0
    assert "images" in (output / "results.json").read_text()
    assert (output / "occlusion.svg").is_file()


def measures_cue_conflicts(place: Place) -> None:
    """On two pictures of each category, which are named for shape and texture."""
    cues = place.folder / "cues"
    for shape, texture in itertools.pairwise((*sixteen_classes(), next(iter(sixteen_classes())))):
        (cues / shape).mkdir(parents=True)
        for number in (1, 2):
            image = Image.new("RGB", (40, 40), (5 * number, 0, 0))
            image.save(cues / shape / f"{shape}{number}-{texture}{number}.png")
    given = {"NAME": "resnet18", "FILE": str(checkpoint(place.folder, "resnet18"))}
    words = [given.get(word, word.replace("DIR", str(cues))) for word in place.words]
    output = place.folder / "out"
    assert main([*words, "--workers", "0", "--output", str(output)]) == 0
    assert "shape_share" in (output / "results.json").read_text()


def evaluates(place: Place) -> None:
    """A released file of random weights: every row that it settles is measured, and none is reproduced."""
    slug = place.found["slug"]
    name = {
        "vars": "rvt_tiny_plus",
        "fan": "fan_tiny_12_p16_224",
        "augmix": "resnet50_augmix",
        "transmix": "deit_small_patch16_224",
        "simclr": "resnet50_simclr",
        "intriguing-vit": "deit_tiny_patch22_224",
    }[slug]
    if "." in place.words[-1]:
        name = place.words[-1]  # with the tag of its weights
    file = checkpoint(place.folder, name.partition(".")[0])
    run = place.folder / "run"
    given = {word.removeprefix("--") for word in place.words} & set(place.data)
    claims = [claim for claim in FULL_SCALE if claim.needs[0] in given]
    if given != set(place.data):  # attacks and corruptions are measured with the whole family
        claims = [claim for claim in claims if claim.name == "imagenet"]
    chosen = ("--claims", ",".join(claim.name for claim in claims), "--output", str(run))
    words = place.filled(*CUT, *chosen, **{word: file for word in place.words if re.search(r"FILE|\.pth", word)})
    assert main(words) == 1, "random weights must be off"

    table = measured.load(run / "measured.csv")
    assert set(table["model"]) == {name}
    assert set(table["weights"]) == {"released"}
    # An error is measured where one is printed.
    wanted = {pair for claim in claims for pair in claim.settles if pair[1] != "top1_error"}
    assert wanted <= set(zip(table["dataset"], table["metric"], strict=True))
    if ("imagenet-c", "mce") in wanted:
        assert table["metric"].str.startswith("corruption_error/").sum() == 75
    settings = Settings(limit=2, checkpoint=file, folders={need: place.data[need] for need in given})
    if "--model" in words:
        settings = Settings(**{**settings.__dict__, "model": name})
    judged = judge.judgement(Run(papers.find(slug), settings, run)).rows
    settled = [row for row in each(judged) if row.model == name and (row.dataset, row.metric) in wanted]
    assert settled
    assert {row.outcome for row in settled} <= {"off", "unclear"}
    assert "reproduced" not in set(judged["outcome"])


def trains(place: Place) -> None:
    """On small images; where the command has --output, on all classes, and the outcome is evaluated as our own."""
    evaluated = "--output" in place.words
    folder, data = place.folder / "trained", place.data["imagenet"]
    changes = ["--set", "input_size=16", "--set", "ema_decay=0"]
    if not evaluated:
        data = place.folder / "few"
        for part in ("train", "val"):
            class_folders(data / part, imagenet_wnids()[:16])
        changes = ["--set", "input_size=32", "--set", "num_classes=16", "--output", str(folder)]
    given = {"DIR": data, "RUN": folder}
    if "FILE" in place.words:
        given["FILE"] = checkpoint(place.folder, place.found["model"], num_classes=16)
    assert main(place.filled("--quick", "--workers", "0", *changes, **given)) == 0
    assert (folder / "model.pt").is_file()
    if not evaluated:
        return
    run = place.folder / "run"
    full = ["--imagenet", str(data), "--checkpoint", str(folder / "model.pt"), *CUT]
    assert main([place.found["slug"], *full, "--claims", "imagenet", "--output", str(run)]) == 0
    table = measured.load(run / "measured.csv")
    assert set(table["model"]) == {place.found["model"]}
    assert set(table["weights"]) == {"trained"}


def evaluates_on_cifar(place: Place) -> None:
    """``tests/robustness/test_cifar.py`` measures; here the command finds its data, its model and what is wrong."""
    file = place.folder / "released.pt"
    torch.save(to_released(timm.create_model("allconv_cifar", num_classes=10)), file)
    empty = place.folder / "empty"
    empty.mkdir()
    run = place.folder / "run"
    words = [str({"DIR": empty, "FILE": file}.get(word, word)) for word in place.words]
    assert main([*words, "--claims", "cifar_10,cifar_10_c", "--output", str(run)]) == 2
    told = (run / "junit.xml").read_text()
    assert "torch/cifar10 cannot be read from" in told
    assert "gaussian_noise.npy cannot be read" in told


def trains_on_cifar(place: Place) -> None:
    """On a few images in place of CIFAR's."""

    def few(name: str, root: Path, *, train: bool, download: bool) -> tuple[torch.Tensor, torch.Tensor]:
        assert not download
        return torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8), torch.arange(16) % 10

    place.monkeypatch.setattr(command, "load_cifar", few)
    assert main([*place.words, "--quick", "--output", str(place.folder / "trained")]) == 0
    assert (place.folder / "trained" / "model.pt").is_file()


def trains_detectors(place: Place) -> None:
    """It finds the folder and says what is missing; ``tests/downstream`` trains on canvases in COCO's format."""
    words = [str(place.folder) if word == "DIR" else word for word in place.words]
    assert main([*words, "--output", str(place.folder / "run")]) == 2


#: Pattern of a command after ``./reproduce.sh``: how it is run.
EXERCISES: dict[str, Callable[[Place], None]] = {
    r"test( [\w-]+)?": exists_only,
    r"list|doctor|cite \w+": prints,
    rf"{SLUG} recipe \w+": prints,
    r"readme": renews,
    SLUG: measures,
    rf"{SLUG} --quick": is_measured,
    rf"{SLUG} --resume": resumes,
    r"compare-runs OLD NEW": compares,
    rf"{SLUG} downstream --task detection --coco DIR": trains_detectors,
    r"compare( [\w-]+)*": exists_only,
    r"all( --quick)?": exists_only,
    r"new [\w-]+": writes_a_paper,
    r"(stylise|deepaugment) SOURCE TARGET( --\w+ [\w.]+)+": exists_only,  # run in the tests of their papers
    r"robustness --model \w+ --pretrained --data ([\w-]+=)?DIR": measures_a_timm_model,
    r"robustness --model NAME --checkpoint FILE --data images-occlusion=DIR": measures_any_pictures,
    r"robustness --model NAME --checkpoint FILE --data cue-conflict=DIR": measures_cue_conflicts,
    rf"{SLUG}( --imagenet(-\w+)? DIR)+ --checkpoint \S+( --model [\w.]+)?": evaluates,
    rf"{SLUG} --cifar-10 DIR --cifar-10-c DIR --checkpoint FILE": evaluates_on_cifar,
    rf"{SLUG} train --recipe cifar10 --dataset torch/cifar10 --data DIR --model \w+": trains_on_cifar,
    rf"{SLUG} train --recipe (imagenet|linear|finetune) --data DIR --model (?P<model>\w+)"
    r"( --initial FILE| --output RUN)?": trains,
}


def told(path: Path) -> list[str]:
    """The commands in code blocks and between backticks, without comments."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^ {4}(?! *[-*]).*$", text, flags=re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    lines = [line for block in [*blocks, *indented] for line in block.splitlines()] + spans
    calls = (
        line.strip().partition("./reproduce.sh ")[2] for line in lines if line.strip().startswith("./reproduce.sh ")
    )
    return [shlex.join(shlex.split(call, comments=True)) for call in calls]


TOLD = sorted({command for path in READMES for command in told(path)})
#: Those of all, and of the papers in ``CHEAP``.
RUN = [command for command in TOLD if command.split()[0] not in papers.all_papers().keys() - CHEAP.keys()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return imagenet_family(tmp_path_factory.mktemp("data"))


def test_the_readmes_tell_the_main_commands() -> None:
    assert {"vars", "test", "doctor", "compare-runs OLD NEW", "new my-paper", "cite vars"} <= set(TOLD)


@pytest.mark.parametrize("command", TOLD)
def test_command_of_a_readme_is_understood(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if command in COMMANDS:
        return  # it is named, not called
    monkeypatch.chdir(tmp_path)
    for word in set(shlex.split(command)):
        path = tmp_path / word.rpartition("=")[2]
        if path.name in ("DIR", "SOURCE", "OLD", "NEW"):
            path.mkdir(exist_ok=True)
        elif path.name == "FILE" or path.suffix in (".pth", ".tar", ".pt"):
            path.touch()
    _, paper, args = parse(shlex.split(command))
    if getattr(args, "recipe", None):
        assert args.recipe in settings(paper[0].recipe)
    if paper and getattr(args, "model", None):
        assert timm.is_model(args.model.partition(".")[0])


@pytest.mark.parametrize("command", RUN)
def test_command_of_a_readme_works(
    command: str, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [(found, run) for pattern, run in EXERCISES.items() if (found := re.fullmatch(pattern, command))]
    assert len(entries) == 1, f"./reproduce.sh {command} is in a README: say in EXERCISES, once, how it is tested"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "runs_folder", lambda: tmp_path / "runs")
    ((found, run),) = entries
    run(Place(shlex.split(command), found, tmp_path, data, monkeypatch))


#: Of the README of all, by number of the code block.
SNIPPETS = {0: Snippet(images, (("vars_sd.pth", "vars_sd_rvt_tiny"),))}


def snippets() -> list[tuple[Path, int, Snippet | None, str]]:
    """README, number and text of each block of Python, with what it takes for granted; None: it is compiled only."""
    found = []
    for path in READMES:
        blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
        granted = SNIPPETS if path.parent == CHECKOUT else of_paper(path.parent.name)
        unknown = granted.keys() - set(range(len(blocks)))
        assert not unknown, f"{path} has no block of Python number {unknown}"
        found += [(path, number, granted.get(number), block) for number, block in enumerate(blocks)]
    return found


def of_paper(package: str) -> dict[int, Snippet]:
    """``SNIPPETS`` of ``tests/papers/PACKAGE/readme.py``, where there is one."""
    if not (CHECKOUT / "tests" / "papers" / package / "readme.py").is_file():
        return {}
    return importlib.import_module(f"tests.papers.{package}.readme").SNIPPETS


@pytest.mark.parametrize(
    ("path", "number", "snippet", "block"),
    [pytest.param(*each, id=f"{each[0].relative_to(CHECKOUT)}-{each[1]}") for each in snippets()],
)
def test_python_of_a_readme_runs(
    path: Path, number: int, snippet: Snippet | None, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = compile(block, f"{path}, block {number}", "exec")
    if snippet is None:
        return
    monkeypatch.chdir(tmp_path)
    for name, model in snippet.files:
        checkpoint(tmp_path, model, name)
    with torch.no_grad():
        exec(code, snippet.names())
