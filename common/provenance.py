"""Where a number comes from: code, versions, machine, command, settings and data."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common.progress import console

PROJECT = Path(__file__).resolve().parents[1]

#: The libraries that a number can depend on.
LIBRARIES = ("resight", "torch", "torchvision", "timm", "numpy", "pandas", "scipy", "scikit-learn", "fvcore")


def collect(settings: dict[str, Any]) -> dict[str, Any]:
    """What is known when a command starts, as JSON-able values.

    Args:
        settings: of the run.

    Returns:
        ``command``, ``started`` (UTC, ISO 8601), ``code`` (commit, and whether files differ from it; None where the
        project is not in git), ``versions``, ``hardware`` and ``settings``.
    """
    return {
        "command": command(),
        "started": now(),
        "code": code(),
        "versions": versions(),
        "hardware": hardware(str(settings.get("device", "cpu"))),
        "settings": settings,
    }


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def command() -> str:
    """The command line, e.g. ``python -m papers vars --quick``."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = ["python", "-m", main.name.removesuffix(".__main__")] if main else [Path(sys.argv[0]).name]
    return shlex.join([*program, *sys.argv[1:]])


def code(project: Path = PROJECT) -> dict[str, Any]:
    """Commit of the code and whether files differ from it; both None outside git."""
    top = _git(project, "rev-parse", "--show-toplevel")
    # A copy inside somebody else's repository has no commit of its own.
    if top is None or Path(top).resolve() != project.resolve():
        if (project / ".git").exists():
            console.print("git gives no commit of this checkout: numbers are recorded without it.", highlight=False)
        return {"commit": None, "dirty": None}
    # Reference results are no code: those of one paper may be written while the next one is measured.
    status = _git(project, "status", "--porcelain", "--", ".", ":!results/reference")
    return {"commit": _git(project, "rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def versions() -> dict[str, str]:
    """Versions of Python, of the libraries that a number can depend on, and of the C compiler where there is one."""
    from common.native import compiler_version

    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from a checkout" if name == "resight" else "not installed"
    return {**found, "C compiler": compiler_version() or "none"}


def hardware(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores that this process may use, memory, threads, accelerator and operating system."""
    import torch

    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    try:
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        memory = None
    accelerator = None
    if device.startswith("cuda") and torch.cuda.is_available():
        accelerator = torch.cuda.get_device_name(device)
    elif device.startswith("mps"):
        accelerator = "Apple MPS"
    return {
        "device": device,
        "cpu": _cpu_model(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_gib": memory,
        "accelerator": accelerator,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def data(needs: Iterable[str], folders: dict[str, Path], checkpoint: Path | None) -> dict[str, dict[str, Any]]:
    """What identifies the data behind a run.

    Args:
        needs: names of the needs of the claims that were measured; only their data are described.
        folders: data sets that the user named, by need.
        checkpoint: weights that were evaluated, or None.

    Returns:
        By need: for embedded data and checkpoints the SHA-256 of each file's content; for folders the number of
        files and the SHA-256 of their listing (relative path and size), since reading millions of images would take
        longer than evaluating them.
    """
    found: dict[str, dict[str, Any]] = {}
    for need in sorted(set(needs)):
        if need == "embedded":
            # The loader refuses files with another sum, so the stated sums are those of the data that were read.
            from common.data.fashion_mnist import SHA256

            found[need] = {"name": "fashion-mnist", "sha256": dict(SHA256)}
        elif need == "checkpoint" and checkpoint is not None:
            found[need] = {"path": str(checkpoint.resolve()), "sha256": sha256(checkpoint)}
        elif need in folders:
            found[need] = listing(folders[need])
    return found


def sha256(path: Path) -> str | None:
    """SHA-256 of a file's content, or None if it is gone or not a file."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def listing(folder: Path) -> dict[str, Any]:
    """Path, number of files and SHA-256 of the sorted listing of ``folder``, or of its ``val`` where it has one."""
    root = folder / "val" if (folder / "val").is_dir() else folder
    lines = sorted(
        f"{(Path(parent) / name).relative_to(root).as_posix()}\t{(Path(parent) / name).stat().st_size}\n"
        for parent, _, names in os.walk(root)
        for name in names
        if (Path(parent) / name).is_file()
    )
    digest = hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
    return {"path": str(root.resolve()), "files": len(lines), "listing_sha256": digest}


def _git(folder: Path, *arguments: str) -> str | None:
    # A checkout that is mounted into a container belongs to another user, for which git refuses it otherwise; its code
    # runs already.
    trusted = f"safe.directory={folder.resolve()}"
    try:
        words = ["git", "-c", trusted, *arguments]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match.group(1) if match else platform.processor() or platform.machine()
