"""Compiling the project's C and calling it in threads."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from common import native
from papers.vars.fast import static_compiled
from papers.vars.static import VARSStatic

ADD = """
typedef struct { int next, sum; } Data;
void work(Data *data)
{
    for (int i; (i = __atomic_fetch_add(&data->next, 1, __ATOMIC_RELAXED)) < 100;)
        __atomic_fetch_add(&data->sum, i, __ATOMIC_RELAXED);
}
"""


class Data(ctypes.Structure):
    _fields_ = (("next", ctypes.c_int), ("sum", ctypes.c_int))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(native, "user_cache_path", lambda name: folder / name)
    native.library.cache_clear()
    yield folder
    native.library.cache_clear()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "add.c"
    path.write_text(ADD)
    return path


needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="needs a C compiler")


@needs_compiler
@pytest.mark.parametrize("openmp", [True, False])
def test_a_team_shares_the_work(source: Path, openmp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not openmp:
        monkeypatch.setattr(native, "_openmp", lambda: None)
    library = native.library(source)
    assert library is not None
    data = Data()
    native.in_team(library.work, data)
    assert data.sum == sum(range(100))
    assert data.next == 100 + torch.get_num_threads()  # each thread found once that nothing was left


@needs_compiler
def test_a_library_is_compiled_once_and_again_when_its_source_changes(source: Path, cache: Path) -> None:
    assert native.library(source) is not None
    native.library.cache_clear()
    (kept,) = (cache / "resight").iterdir()  # nothing half made beside it
    made = kept.stat().st_mtime_ns
    assert native.library(source) is not None
    assert kept.stat().st_mtime_ns == made
    source.write_text(ADD.replace("100", "10"))
    native.library.cache_clear()
    data, library = Data(), native.library(source)
    assert library is not None
    native.in_team(library.work, data)
    assert data.sum == sum(range(10))
    assert len(list((cache / "resight").iterdir())) == 2


@needs_compiler
def test_a_header_beside_the_source_is_part_of_it(source: Path) -> None:
    header = source.with_name("count.h")
    source.write_text('#include "count.h"\n' + ADD.replace("100", "COUNT"))
    for count in (5, 7):
        header.write_text(f"#define COUNT {count}\n")
        native.library.cache_clear()
        data, library = Data(), native.library(source)
        assert library is not None
        native.in_team(library.work, data)
        assert data.sum == sum(range(count))


@needs_compiler
def test_what_cannot_be_compiled_is_said_and_done_without(source: Path) -> None:
    source.write_text("int main(void) { return nowhere; }")
    with pytest.warns(UserWarning, match=r"add\.c could not be compiled .*nowhere.*CC"):
        assert native.library(source) is None


@needs_compiler
def test_a_cache_that_cannot_be_written_to_is_said_and_done_without(source: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="XDG_CACHE_HOME"):
        assert native.library(source) is None


def test_without_a_compiler_vars_s_is_computed_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.compiler() is None
    torch.manual_seed(0)
    x, attention = torch.randn(1, 30, 20), VARSStatic(20, grid=(6, 5), sparsity=0.3).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not static_compiled.serves(x)
        found = attention(x)
    torch.testing.assert_close(found, attention.double()(x.double()).float(), atol=1e-6, rtol=1e-5)
