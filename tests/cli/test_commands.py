"""The commands beside reproducing: help, list, cite, doctor, readme, new, test."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch

import papers
from common import native
from common.bench import images as bench_images
from common.errors import UserError
from common.manifest import load_manifest
from common.training.recipe import load_recipe, settings
from papers.__main__ import main
from papers._commands import COMMANDS, HELP, OF_PAPER, bench, compare, new, readme, reproduce
from papers._commands import test as checks

CHECKOUT = Path(__file__).resolve().parents[2]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert text == HELP.read_text()
    listed = set(re.findall(r"^  ([a-z-]+) ", text, flags=re.MULTILINE))
    assert listed == set(COMMANDS)
    for action in filter(None, OF_PAPER):
        assert f"./reproduce.sh vars {action} " in text


@pytest.mark.parametrize("words", [[name] for name in COMMANDS] + [["vars", name] for name in OF_PAPER if name])
def test_every_command_explains_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--help"])
    assert exit_.value.code == 0
    assert f"./reproduce.sh {' '.join(words)}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["reference", "--help"], ["vars"], ["numbers"], ["rvt", "train", "--model", "x"]])
def test_a_python_without_the_packages_is_one_sentence(words: list[str]) -> None:
    done = subprocess.run(
        # -S: without the installed packages; -c with the program's name that -m has.
        [
            sys.executable,
            "-S",
            "-c",
            "import sys; sys.argv[:1] = ['-m']\nfrom papers.__main__ import entry; sys.exit(entry())",
            *words,
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert re.search(r"lacks the package \w+: call ./reproduce.sh, which makes an environment", line)


def test_a_module_of_ours_that_is_missing_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: list[str]) -> int:
        raise ModuleNotFoundError("No module named 'common.gone'", name="common.gone")

    monkeypatch.setattr("papers.__main__.dispatch", fails)
    with pytest.raises(ModuleNotFoundError):
        main(["list"])


def test_no_paper_is_called_like_a_command() -> None:
    assert not set(papers.all_papers()) & set(COMMANDS)


def test_help_and_lists_do_not_wait_for_torch() -> None:
    script = (
        "import sys; sys.argv = ['-m']; from papers.__main__ import main; main(['--help']); main(['cite', 'vars']); "
        "main(['list']); print('torch' in sys.modules, 'timm' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.strip() == "False False"
    for slug in papers.all_papers():
        assert slug in done.stdout


def test_cite(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", "toy"]) == 0
    text = capsys.readouterr().out
    assert "@article{author2026toy" in text
    assert "@software{resight" in text
    text = text.partition("@software")[2]
    version = re.search(r"version += \{(.+?)\}", text)[1]
    assert f'version = "{version}"' in (CHECKOUT / "pyproject.toml").read_text()
    citation = (CHECKOUT / "CITATION.cff").read_text()
    assert f"version: {version}\n" in citation
    assert re.search(r"title += \{(.+?)\}", text)[1] in citation


def test_doctor_says_in_one_screen_what_is_there_and_what_waits_for_what(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (toy / "expected.csv").open("a") as manifest:
        manifest.write("net,imagenet-1k,top1,70.0,%,,README.md @1,table 1,\n")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 40
    assert f"torch {torch.__version__.partition('+')[0]}" in text
    assert "Fashion-MNIST is" in text
    waiting = {line.split()[0]: line.split()[1:3] for line in text.partition("need ")[2].splitlines()[1:]}
    every = [claim for paper in papers.all_papers().values() for claim in paper.claims]
    assert waiting["imagenet"][0] == str(sum("imagenet" in claim.needs for claim in every))
    assert int(waiting["checkpoint"][1]) >= int(waiting["imagenet-c"][1])


def test_doctor_of_a_paper_says_what_its_claims_need(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "toy"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"first +ready +The first holds", text)
    assert re.search(r"third +needs imagenet +The third needs data", text)
    assert "./reproduce.sh toy --imagenet DIR" in text
    (tmp_path / "data/val/n01440764").mkdir(parents=True)
    assert main(["doctor", "toy", "--imagenet", str(tmp_path / "data")]) == 0
    assert re.search(r"third +ready", capsys.readouterr().out)
    assert main(["doctor", "tyo"]) == 2
    assert "Did you mean toy?" in capsys.readouterr().err


def test_doctor_says_what_a_compiler_would_bring(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    native.compiler_version.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "C compiler none" in text
    assert "Install a C compiler" in text
    native.compiler_version.cache_clear()


def test_readmes_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["readme", "--check"]) == 0, capsys.readouterr().out


def _only(slug: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what writes READMEs away from the real ones."""
    paper = papers.find(slug)
    monkeypatch.setattr(papers, "all_papers", lambda: {slug: paper})
    monkeypatch.setattr(readme, "CHECKOUT", folder)


def test_readme_sections_are_filled_and_checked(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = toy / "README.md"
    _only("toy", toy.parent, monkeypatch)
    path.write_text("By hand.\n\n<!-- generated: claims -->\noutdated\n<!-- end -->\n\nBy hand too.\n")
    assert main(["readme", "--check"]) == 1
    assert "outdated" in path.read_text()
    assert main(["readme"]) == 0
    text = path.read_text()
    assert "| first | The first holds. | nothing |" in text
    assert "outdated" not in text
    assert text.startswith("By hand.\n")
    assert text.endswith("By hand too.\n")
    assert main(["readme", "--check"]) == 0


NUMBERS = """model,dataset,metric,value,unit,tolerance,source,locator,note
net,-,params,8.6,M,,README.md @1,table 1,
net,-,params,8.6,M,,appendix,table 9,
net,imagenet-1k,top1,70.0,%,,README.md @1,table 1,
host,-,params,22.1,M,,README.md @1,table 1,"off, known: the released host has 22 M"
"""


def test_numbers_in_a_readme_are_a_row_a_model(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "expected.csv").write_text(NUMBERS)
    table = readme.numbers_table(papers.find("toy"))
    assert "| net | 8.6 | 70.0 |" in table
    assert table.index("| net ") < table.index("| host ")
    assert "Of 4 printed numbers: 4 not measured." in table
    assert "(expected.csv)" in table
    many = [f"net_{number},-,params,{number}.0,M,,README.md @1,table 1," for number in range(60)]
    (toy / "expected.csv").write_text("\n".join([NUMBERS.splitlines()[0], *many]) + "\n")
    table = readme.numbers_table(papers.find("toy"))
    assert table.count("| net_") == 40
    assert "20 of them are not in this table" in table


def test_numbers_in_a_readme_have_our_measurement_beside_them(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from results import measured, reference

    (toy / "expected.csv").write_text(NUMBERS)
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    rows = [
        {"kind": "measurement", "claim": "size", "model": model, "dataset": "-", "metric": "params", "weights": "none"}
        | {"value": value, "unit": "M", "exact": False, "quick": False}
        for model, value in (("net", 8.64), ("host", 22.0))
    ]
    rows += [
        {
            "kind": "finding",
            "claim": "first",
            "name": name,
            "statement": f"{name}.",
            "verdict": verdict,
            "evidence": "e.",
        }
        for name, verdict in (("main", "holds"), ("other", "unclear"))
    ]
    (tmp_path / "toy.csv").write_text(measured.to_csv(measured._typed(pd.DataFrame(rows))))
    paper = papers.find("toy")
    table = readme.numbers_table(paper)
    assert "| net | 8.6 (8.64) | 70.0 |" in table
    assert "| host | 22.1 (22.00 ≠) |  |" in table
    assert "- ≠ host params: the released host has 22 M" in table
    first, *others = paper.claims
    declared = replace(paper, claims=(replace(first, primary="main"), *others))
    findings = readme.findings_table(declared)
    assert "| The first holds. | holds | e. |" in findings
    assert "<summary>Secondary findings: 1 unclear</summary>" in findings


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<!-- generated: clams -->\n<!-- end -->\n", "Did you mean claims?"),
        ("<!-- generated: claims -->\n", "no <!-- end -->"),
    ],
)
def test_readme_mistakes(
    toy: Path, text: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _only("toy", toy.parent, monkeypatch)
    (toy / "README.md").write_text(text)
    assert main(["readme"]) == 2
    assert sentence in capsys.readouterr().err
    assert (toy / "README.md").read_text() == text


@pytest.mark.parametrize(
    ("kind", "timm_names"),
    [("architecture", []), ("architecture", ["resnet18", "resnet34"]), ("augmentation", []), ("analysis", [])],
)
def test_skeleton_passes_the_checks(
    kind: str,
    timm_names: list[str],
    more_papers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(new, "PAPERS", more_papers)
    slug, name = f"fresh-{kind}", f"fresh_{kind}"
    title = "Attention, Robustness and Other Things That Vision Models Have or Have Not: A Study"
    authors = [word for number in range(9) for word in ("--author", f"Author Number {number}")]
    assert (
        main(
            ["new", slug, "--kind", kind, "--title", title, *authors, *(["--timm", *timm_names] if timm_names else [])]
        )
        == 0
    )
    folder = more_papers / name
    code = {"architecture": ["model.py"], "analysis": ["analysis.py", "metrics.csv"]}.get(kind, ["method.py"])
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        *("__init__.py", "README.md", "claims.py", "expected.csv", "recipe.toml", *([] if timm_names else code))
    }
    tests = tmp_path / "tests" / "papers" / name
    assert [path.name for path in tests.iterdir()] == [f"test_{name}.py"]
    compile((tests / f"test_{name}.py").read_text(), name, "exec")
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *check, "--config", str(CHECKOUT / "pyproject.toml"), str(folder)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout

    papers.all_papers.cache_clear()
    paper = papers.find(slug)
    assert paper.title == title
    assert load_manifest(paper.manifest).empty
    for setting in settings(paper.recipe):
        for quick in (False, True):
            load_recipe(paper.recipe, setting, model=paper.all_models[0].name, quick=quick)
    compared = "resnet_mini: mirrored_agreement" if kind == "analysis" else f"vit_mini.{name}: top1"
    assert {claim.primary for claim in paper.claims if claim.needs} == {f"vit_mini > {compared}"}
    with torch.no_grad():
        for contender in compare.contenders(paper):
            assert contender.build().eval()(torch.zeros(2, 3, 28, 28)).shape == (2, 10)
    assert main([slug, "--claims", paper.claims[0].name, "--output", str(tmp_path / "run")]) == 0
    assert main(["cite", slug]) == 0
    _only(slug, more_papers, monkeypatch)
    assert main(["readme"]) == 0
    assert paper.claims[0].statement in (folder / "README.md").read_text()

    if timm_names:
        assert [model.name for model in paper.reused_models] == timm_names
    elif kind == "architecture":
        model = timm.create_model(paper.models[0].name, num_classes=7, img_size=32)
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
        features = timm.create_model(paper.models[0].name, features_only=True, img_size=32)
        assert len(features(torch.zeros(1, 3, 32, 32))) == 3
    elif kind == "analysis":
        (host, _) = compare.contenders(paper)
        measure = importlib.import_module(f"{paper.package}.analysis").measure
        same = measure(host.build(), host.settings(quick=True), True)["mirrored_agreement"]
        assert same.shape == bench_images.test_set(True).labels.shape
    else:
        method = importlib.import_module(f"{paper.package}.method")
        images = torch.rand(4, 3, 8, 8)
        assert torch.allclose(method.apply(images, 1.0), images.mean(0).expand_as(images))


@pytest.mark.parametrize(
    ("slug", "sentence"),
    [
        ("Big-Name", "cannot be a slug"),
        ("3d", "a letter first"),
        ("list", "is a command"),
        ("lambda", "word of Python"),
        ("toy", "is there already"),
    ],
)
def test_new_refuses_bad_slugs(
    slug: str, sentence: str, toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(new, "PAPERS", toy.parent)
    before = sorted(toy.parent.iterdir())
    assert main(["new", slug]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(toy.parent.iterdir()) == before


def test_a_package_without_declaration_is_named(more_papers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (more_papers / "empty").mkdir()
    (more_papers / "empty/__init__.py").touch()
    papers.all_papers.cache_clear()
    assert main(["list"]) == 2
    assert "declares no PAPER" in capsys.readouterr().err


def test_a_method_setting_without_hooks_is_refused(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from papers._commands.train import _hooks

    recipe = load_recipe(papers.find("rvt").recipe, "embedded")
    assert recipe.method
    with pytest.raises(UserError, match=r"training\.py"):
        _hooks(papers.find("toy"))(recipe)


def test_checks_run_all_and_fail_honestly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[str] = []
    failing: set[str] = set()

    def python(module: list[str], processes: int = 1) -> int:
        ran.append(module[0])
        return 3 if module[0] in failing else 0

    monkeypatch.setattr(checks, "_python", python)
    assert main(["test"]) == 0
    assert ran == ["ruff", "ruff", "mypy", "pytest"]
    for tool in ("ruff", "mypy", "pytest"):
        failing = {tool}
        ran.clear()
        assert main(["test"]) != 0
        assert ran == ["ruff", "ruff", "mypy", "pytest"]
    failing = set()
    ran.clear()
    assert main(["test", "--", "-k", "nothing"]) == 0
    assert ran == ["pytest"]


def test_checks_of_a_paper_are_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(checks, "_python", lambda module, processes=1: ran.append(module) or 0)
    assert main(["test", "intriguing-vit"]) == 0
    assert [words[0] for words in ran] == ["ruff", "ruff", "papers", "pytest"]
    assert ran[0][2:] == ["papers/intriguing_vit", "tests/papers/intriguing_vit"]
    assert "intriguing-vit" in ran[-1]
    assert not [path for path in ran[-1] if "downstream" in path]
    assert main(["test", "swin"]) == 0
    assert "tests/downstream/test_configs.py" in ran[-1]
    assert all((CHECKOUT / path).exists() for path in checks.OF_EACH)


def test_changes_concern_papers_and_what_builds_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.concerned([]) == []
    assert checks.concerned(["papers/tnt/model.py", "tests/papers/tnt/test_model.py"]) == ["tnt"]
    built_on = [paper.slug for paper in papers.all_papers().values() if "simclr" in (paper.slug, *paper.builds_on)]
    assert "mixmim" in built_on
    assert checks.concerned(["papers/simclr/method.py"]) == built_on
    assert {"rvt", "vars", "unrolling"} <= set(checks.concerned(["results/reference/rvt.csv"]) or ())
    assert "hornet" in (checks.concerned(["papers/deit/recipe.toml"]) or ()), "its recipe is based on DeiT's"
    for file in ("common/run.py", "papers/__init__.py", "papers/rvts/model.py", "papers/_commands/new.py"):
        assert checks.concerned(["papers/simclr/method.py", file]) is None


def test_changes_are_those_since_a_branch_parted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tests").mkdir()
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q", "-b", "main"], [*who, "commit", "-q", "--allow-empty", "-m", "start"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(checks, "CHECKOUT", tmp_path)
    assert main(["test", "--changed"]) == 0
    assert "Nothing differs from main." in capsys.readouterr().out
    (tmp_path / "new.txt").write_text("not committed")
    assert checks.changed_files("main") == ["new.txt"]
    assert main(["test", "--changed", "nowhere"]) == 2
    assert "There is no commit 'nowhere'" in capsys.readouterr().err


def test_a_full_disk_is_one_sentence(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "results/runs")

    monkeypatch.setattr(reproduce, "open_run", full)
    assert main(["toy"]) == 2
    assert capsys.readouterr().err.strip().splitlines() == [
        "No space left on device (results/runs); make room or choose another folder, and call again."
    ]


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; '{sys.executable}' -m papers --help | true; exit ${{PIPESTATUS[0]}}"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


def test_benchmarks_are_found_and_given_their_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench_toys.py").write_text("def main(arguments):\n    print(arguments)\n    return 5\n")
    monkeypatch.setattr(bench, "BENCHMARKS", tmp_path)
    assert main(["bench", "toys", "--batch", "2", "--help"]) == 5
    assert capsys.readouterr().out == "['--batch', '2', '--help']\n"
    assert main(["bench", "tosy"]) == 2
    assert "Did you mean toys?" in capsys.readouterr().err


def test_every_benchmark_can_be_called() -> None:
    assert "corruptions" in bench._benchmarks()
    for path in bench._benchmarks().values():
        assert re.search(r"^def main\(\w+: ", path.read_text(), flags=re.MULTILINE), f"{path} has no main(arguments)"
