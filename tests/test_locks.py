"""One call at a time in an output folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import UserError
from common.locks import LOCK, held

HOLD = """
import sys, time
from pathlib import Path
from common.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_call_is_refused_until_the_first_has_ended_however_it_ends(tmp_path: Path) -> None:
    first = holder(tmp_path / "new/folder")
    with pytest.raises(UserError, match=rf"is in use by another call \(process {first.pid} on "):
        held(tmp_path / "new/folder").__enter__()
    first.send_signal(signal.SIGKILL)
    first.wait()
    with held(tmp_path / "new/folder"), pytest.raises(UserError, match="in use by this process already"):
        held(tmp_path / "new/folder").__enter__()
    assert not (tmp_path / "new/folder" / LOCK).exists()


def test_what_a_killed_call_left_half_written_is_removed(tmp_path: Path) -> None:
    half, other = tmp_path / "a" / ".model.pt.ab12cd_x.part", tmp_path / "a" / ".mine.part"
    half.parent.mkdir()
    half.touch()
    other.touch()
    with held(tmp_path):
        assert not half.exists()
        assert other.exists()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/none"])
def test_a_folder_that_cannot_be_made_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written \(.*\); choose another --output"), held(tmp_path / place):
        pass


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
time.sleep(60)
"""
CHILD = "import time; from common.parentage import end_with_parent; end_with_parent(); time.sleep(60)"


def test_a_process_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.5)  # until it watches
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
