"""A small paper with printed numbers and claims of every kind, whose measuring functions a test provides."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import ModuleType

import pytest

from common import provenance
from common.declaration import Claim, Deviation, Model, Paper
from common.manifest import COLUMNS
from common.measurement import Finding, Measurement, Picture
from common.run import Run, Settings

MANIFEST = {
    "fake": (
        "net_tiny,-,params,8.6,M,,README.md @1,table 1,",
        "net_tiny,-,flops,1.3,G,,README.md @1,table 1,",
        "net_tiny,imagenet-1k,top1,78.4,%,,README.md @1,table 1,",
        "net_small,imagenet-1k,top1,81.7,%,0.2,README.md @1,table 1,",
        "net_tiny,imagenet-c,mce,57.0,,,README.md @1,table 2,",
        "net_tiny,coco,box_ap,40.1,%,,README.md @1,table 3,",
    ),
    "host": ("host_tiny,imagenet-1k,top1,76.1,%,,README.md @2,table 1,",),
}

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="144pt" height="72pt" '
    'viewBox="0 0 144 72"><defs><style>*{stroke-linecap: butt}</style><clipPath id="p0"><rect width="9" height="9"/>'
    '</clipPath></defs><g id="figure_1"><g id="patch_1"><path d="M0 0h144v72z" style="fill: #ffffff"/></g>'
    '<path id="m0" d="M0 0h9" style="stroke: #000000" clip-path="url(#p0)"/><use xlink:href="#m0" x="9"/></g></svg>'
)


#: Asking git costs more than all else in a run of this paper.
CODE = functools.cache(provenance.code)


class Fake:
    """Builds papers and runs; ``measures`` maps a claim's name to the list that its function yields."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.module = ModuleType("fake_claims")
        monkeypatch.setitem(sys.modules, "fake_claims", self.module)
        monkeypatch.setattr("common.provenance.code", CODE)
        for slug, rows in MANIFEST.items():
            self.manifest(slug, *rows)

    def manifest(self, slug: str, *rows: str) -> None:
        path = self.folder / slug / "expected.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")

    def paper(self, **changes) -> Paper:
        def claim(name: str, statement: str, **rest) -> Claim:
            return Claim(name=name, statement=statement, measured_by=f"fake_claims:{name}", **rest)

        declared = {
            "slug": "fake",
            "title": "Attention to <Detail> & Other Networks",
            "authors": ("A. Author", "B. Writer"),
            "venue": "CONF 2022",
            "year": 2022,
            "kind": "architecture",
            "arxiv": "2201.00001",
            "repository": "github.com/someone/net",
            "licence": "none stated",
            "summary": "A small network that attends to detail.",
            "bibtex": "@inproceedings{author2022,\n  title = {Attention to Detail},\n}",
            "models": (Model(name="net_tiny"), Model(name="net_small")),
            "claims": (
                claim("size", "Parameters and FLOPs are as printed.", settles=(("-", "*"),)),
                claim("identity", "One step is the ordinary layer."),
                claim("robustness", "Attention to detail is more robust.", needs=("embedded",)),
                claim(
                    "accuracy",
                    "ImageNet accuracy is as printed.",
                    needs=("imagenet", "checkpoint"),
                    settles=(("imagenet-1k", "top1"),),
                ),
                claim(
                    "corruptions",
                    "The corruption error is as printed.",
                    needs=("imagenet-c", "checkpoint"),
                    settles=(("imagenet-c", "*"),),
                ),
            ),
            "deviations": (
                Deviation(
                    name="activation",
                    publication="soft shrinkage",
                    released="GELU",
                    ours="soft shrinkage",
                    switch="activation",
                    effect="robustness",
                ),
            ),
            "builds_on": ("host",),
            "folder": self.folder / "fake",
        }
        return Paper(**{**declared, **changes})

    def run(self, measures: dict | None = None, *, name: str = "run", paper: Paper | None = None, **settings) -> Run:
        """Execute a run; a value of ``measures`` is a list of results, or an exception at its end."""
        for claim, results in {**DEFAULT, **(measures or {})}.items():
            setattr(self.module, claim, _function(results))
        run = Run(paper or self.paper(), Settings(**settings), self.folder / name)
        run.execute()
        return run

    def full(self, measures: dict | None = None, **rest) -> Run:
        """As ``run``, with ImageNet and a checkpoint at hand."""
        weights = self.folder / "weights.pth"
        weights.write_bytes(b"weights")
        (self.folder / "imagenet").mkdir(exist_ok=True)
        folders = {"imagenet": self.folder / "imagenet"}
        return self.run(measures, folders=folders, checkpoint=weights, **rest)


def _function(results: list):
    def measure(run: Run):
        for result in results:
            if isinstance(result, BaseException):
                raise result
            yield result

    return measure


def number(model: str, dataset: str, metric: str, value: float, unit: str = "%", **rest) -> Measurement:
    return Measurement(model=model, dataset=dataset, metric=metric, value=value, unit=unit, **rest)


def top1(value: float, weights: str = "released", model: str = "net_tiny", **rest) -> Measurement:
    return number(model, "imagenet-1k", "top1", value, weights=weights, protocol="top1/1", **rest)


DEFAULT = {
    "size": [number("net_tiny", "-", "params", 8.6412, "M"), number("net_tiny", "-", "flops", 1.3, "G")],
    "identity": [
        Finding(
            statement="One step without sparsity is the ordinary layer.",
            verdict="holds",
            evidence="largest difference 2e-16",
            value=2e-16,
            exact=True,
        )
    ],
    "robustness": [
        number("net_tiny", "fashion-mnist", "top1", 91.25, weights="trained", interval=(90.5, 92.0), seeds=3, n=10000),
        number("net_small", "fashion-mnist", "top1", 92.0, weights="trained", interval=(91.5, 92.5), seeds=3, n=10000),
        Finding(
            statement="Detail helps against corruption.",
            verdict="does not hold",
            evidence="paired difference -0.4 points, 95 % interval [-0.7, -0.1], 3 seeds",
            value=-0.4,
            interval=(-0.7, -0.1),
            seeds=3,
        ),
        Picture(name="maps", caption="Attention maps.", svg=SVG),
        Picture(name="again", caption="The same again.", svg=SVG),
    ],
    "accuracy": [top1(78.37)],
    "corruptions": [number("net_tiny", "imagenet-c", "mce", 57.1, "", weights="released")],
}
