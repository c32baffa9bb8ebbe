"""C of the project: compiled for this processor on first use, kept, loaded.

A few loops are worth it, since torch would write each of their intermediate results to memory. Each has a form in torch
as well, for other devices and precisions and for machines without a C compiler, and a test that holds the two to each
other. Sources need nothing but a C compiler: no headers of Python or torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from platformdirs import user_cache_path
from torch import Tensor

from common.files import write_atomic

#: What sources may include.
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
#: Sources are written in vectors as wide as the processor's, among which a compiler that looks for more does harm.
FLAGS = (
    *("-std=gnu11", "-O3", "-fno-tree-vectorize", "-fno-tree-slp-vectorize", "-fPIC", "-shared"),
    *("-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native", f"-I{Path(__file__).parent}"),
)


def compiler() -> str | None:
    """The C compiler's path: ``$CC``, or the first of cc, gcc and clang; None where there is none."""
    named = os.environ.get("CC")
    paths = map(shutil.which, [named] if named else ["cc", "gcc", "clang"])
    return next((path for path in paths if path), None)


@cache
def compiler_version() -> str | None:
    """What the C compiler says of its version; None where there is none, or one that does not run."""
    command = compiler()
    try:
        return None if command is None else _run(command, "--version").splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """The library compiled from a C file, or None, with a warning, where it could not be compiled.

    It is compiled when the source, the compiler or the processor has changed, into the user's cache.

    Args:
        source: the file; compiling takes a second or two.
    """
    command = compiler()
    if command is None:
        return None  # said by `./reproduce.sh doctor` and in the provenance of a run
    try:
        compiled = user_cache_path("resight") / f"{source.stem}-{_key(source, command)}.so"
        if not compiled.is_file():
            _compile(source, command, compiled)
        return ctypes.CDLL(str(compiled))
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        said = next((line.strip() for line in output.splitlines() if "error" in line), output.strip().split("\n")[0])
        warnings.warn(
            f"{source.name} could not be compiled ({said}), so a slower form is used; name a C compiler that works "
            f"here by the variable CC, or a folder that can be written to by XDG_CACHE_HOME.",
            stacklevel=2,
        )
        return None


def _compile(source: Path, command: str, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    for left in to.parent.glob("*.part"):
        if not _lives(left.suffixes[0]):  # of a process that was killed
            left.unlink(missing_ok=True)
    part = to.with_suffix(f".{os.getpid()}.part")
    try:
        _run(command, *FLAGS, "-o", str(part), str(source), "-lm")
        write_atomic(to, part.read_bytes())
    finally:
        part.unlink(missing_ok=True)


def _lives(suffix: str) -> bool:
    """Whether the process is there whose number is ``suffix``, ``".123"``."""
    try:
        os.kill(int(suffix.removeprefix(".")), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:  # of somebody else
        return True
    return True


def _key(source: Path, command: str) -> str:
    texts = (file.read_text("utf-8") for file in (*HEADERS, *sorted(source.parent.glob("*.h")), source))
    parts = (*texts, command, _run(command, "--version"), *FLAGS, _processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _run(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _processor() -> str:
    """What code for this processor depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


def in_team(function: Callable[..., object], data: ctypes.Structure) -> None:
    """Call ``function(&data)`` in as many threads as torch has, at the same time; the calls share the work.

    Args:
        function: of a library.
        data: what the calls have in common.
    """
    threads, parallel = torch.get_num_threads(), _openmp()
    if threads == 1:
        function(ctypes.byref(data))
    elif parallel is not None:
        parallel(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(data), threads, 0)  # type: ignore[arg-type]
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda _: function(ctypes.byref(data)), range(threads)))


@cache
def _openmp() -> Callable[..., object] | None:
    """The function of torch's own OpenMP that calls another in a team of threads; None where it is another's OpenMP.

    Threads of one's own would compete for cores with torch's, which are kept busy for some milliseconds after work.
    """
    function = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        function.restype = None
    return function


def call(source: Path, name: str, data: ctypes.Structure, what: str) -> None:
    """Call a function of a compiled C file by :func:`in_team`.

    Args:
        source: the file.
        name: of the function.
        data: its argument, whose field ``failed`` it sets for want of memory.
        what: is computed, for the error.

    Raises:
        MemoryError: there is not enough memory.
    """
    code = library(source)
    assert code is not None
    in_team(getattr(code, name), data)
    if data.failed:
        raise MemoryError(f"no memory for {what}")


def plain(x: Tensor) -> bool:
    """Whether compiled code can take ``x``: float32 on a CPU, and nobody looks for torch's own operators."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0 and not watched()


def watched() -> bool:
    """Whether somebody looks for torch's own operators: a tracer, a compiler, a dispatch mode or torch.func."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None
