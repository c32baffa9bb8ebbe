"""``./reproduce.sh doctor``: what this machine has, and what each claim still needs."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from common.arguments import existing_file, existing_folder
from common.needs import NEEDS, Need, sentence
from common.run import Settings


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the data that a run would be given."""
    parser.epilog = "With the folders and the checkpoint of a run, shows what that run could measure."
    parser.add_argument("--checkpoint", type=existing_file, metavar="FILE")
    for need in _folders():
        parser.add_argument(need.option, type=existing_folder, metavar="DIR")


def _folders() -> list[Need]:
    """The data sets that papers use."""
    import papers

    used = {need for paper in papers.all_papers().values() for need in paper.data_sets}
    return [need for need in NEEDS.values() if need in used]


def run(args: Namespace) -> int:
    """Print what is there, then for each paper which claims can be measured and what the others need."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    _machine(console)
    named = {need.name: getattr(args, need.name.replace("-", "_")) for need in _folders()}
    given = {name: path for name, path in named.items() if path is not None}
    _data(console, given)
    _claims(console, Settings(folders=given, checkpoint=args.checkpoint))
    return 0


def _section(console: Console, title: str) -> None:
    console.print(Text(f"\n{title}", style="bold"))


def _machine(console: Console) -> None:
    import torch

    from common import provenance

    console.print(Text("Installed", style="bold"))
    versions = provenance.versions()
    for name, version in versions.items():
        if name != "resight":
            console.print(f"  {name} {version}")
    if versions["C compiler"] == "none":
        console.print("  Install a C compiler (cc, gcc, clang) or name one by CC: VARS trains up to twice as fast.")
    _section(console, "Machine")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hardware = provenance.hardware(device)
    memory = f", {hardware['memory_gib']} GiB memory" if hardware["memory_gib"] else ""
    console.print(f"  {hardware['system']}")
    console.print(f"  {hardware['cpu']}, {hardware['cores']} cores{memory}")
    console.print(f"  device: {device}" + (f", {hardware['accelerator']}" if hardware["accelerator"] else ""))
    if torch.backends.mps.is_available():
        console.print("  device: mps (with --device mps)")
    free = shutil.disk_usage(provenance.PROJECT).free / 2**30
    console.print(f"  disk: {free:.1f} GiB free in {provenance.PROJECT}")


def _data(console: Console, given: dict[str, Path]) -> None:
    from common.data.fashion_mnist import find_fashion_mnist
    from common.data.folders import visible_folders

    _section(console, "Data")
    console.print(f"  {find_fashion_mnist().sentence}")
    for name, path in given.items():
        root = path / "val" if (path / "val").is_dir() else path
        count = len(visible_folders(root)) if root.is_dir() else 0
        console.print(f"  {name}: {root.resolve()}, {count} folders in it")
    for need in _folders():
        if need.name not in given:
            console.print(f"  {need.name}: not given; {need.remedy}")


def _claims(console: Console, settings: Settings) -> None:
    import papers

    for slug, paper in papers.all_papers().items():
        _section(console, f"Claims of {slug}")
        groups: dict[str, list[str]] = {}
        for claim in paper.claims:
            missing = settings.missing(claim)
            groups.setdefault(sentence(missing, slug) if missing else "can be measured", []).append(claim.name)
        for state, names in groups.items():
            console.print(f"  {', '.join(names)}: {state}")
