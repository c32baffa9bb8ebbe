"""Arrows between packages point one way: papers -> common, downstream -> papers and common, results -> common.

Read from the source, so that imports inside functions count, too, and nothing is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import papers
from common.declaration import Paper

CHECKOUT = Path(__file__).resolve().parents[1]
OURS = {"common", "downstream", "papers", "results", "tests"}
OPENMMLAB = {"mmcv", "mmdet", "mmengine", "mmseg"}
#: What a package may import of ours, and of OpenMMLab. The command line, in ``papers``, ties everything together.
MAY = {
    "common": {"common"},
    "results": {"common", "results"},
    "downstream": {"common", "downstream", "papers", *OPENMMLAB},
}


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a module imports, wherever that stands in it; relative ones made absolute."""
    package = path.parent.relative_to(CHECKOUT).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield from (".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names)


def wrong(folder: Path, allowed: set[str]) -> list[str]:
    """Each import of ours, or of OpenMMLab, in a folder's modules that is not in ``allowed``: "file: name"."""
    return [
        f"{path.relative_to(CHECKOUT)}: {name}"
        for path in sorted(folder.rglob("*.py"))
        for name in imports(path)
        if name.partition(".")[0] in (OURS | OPENMMLAB) - allowed
    ]


@pytest.mark.parametrize("package", MAY)
def test_a_package_imports_what_it_may(package: str) -> None:
    assert not wrong(CHECKOUT / package, MAY[package])


@pytest.mark.parametrize("paper", papers.all_papers().values(), ids=lambda paper: paper.slug)
def test_a_paper_imports_those_that_it_builds_on(paper: Paper) -> None:
    allowed = {paper.package, *(papers.find(slug).package for slug in paper.builds_on)}
    for path in sorted(paper.folder.rglob("*.py")):
        for name in imports(path):
            first, *rest = name.split(".")
            assert first not in {*OPENMMLAB, "downstream", "results", "tests"}, f"{path}: {name}"
            if first == "papers":
                assert rest, f"{path}: import the paper itself"
                assert f"papers.{rest[0]}" in allowed, f"{path}: {name}; builds_on of the declaration says what it uses"


def test_wrong_imports_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "CHECKOUT", tmp_path)
    (tmp_path / "module.py").write_text(
        "import torch\ndef later():\n    from papers.vars import PAPER\n    import mmcv.ops\n"
    )
    assert wrong(tmp_path, MAY["common"]) == ["module.py: papers.vars.PAPER", "module.py: mmcv.ops"]
    assert wrong(tmp_path, MAY["downstream"]) == []
