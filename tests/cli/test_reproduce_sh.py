"""reproduce.sh with a stand-in for Python: no package is installed, everything else is real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = (
    *("awk", "bash", "cat", "cksum", "cp", "cut", "df", "dirname", "env", "grep", "ln", "ls", "mkdir", "mv"),
    *("readlink", "rm", "sed", "sleep", "tail", "uname"),
)


@dataclass
class Checkout:
    """A copy of what reproduce.sh needs, in a folder whose name has a space, with a PATH of its own."""

    root: Path
    bin: Path
    log: Path

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def installs(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if "pip install" in line]

    def start(self, *words: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.root / "reproduce.sh"), *words],
            cwd=cwd or self.root,
            env={"PATH": str(self.bin), "FAKE_LOG": str(self.log), "FAKE_VERSION": "3.12", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell cannot trap what it was started to ignore, as tests in the background of another one are.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def call(self, *words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, cwd=cwd, **environment)
        out, err = process.communicate(timeout=30)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def add_python(self, name: str = "python3") -> None:
        shutil.copy(CHECKOUT / "tests/cli/fake_python.sh", self.bin / name)
        (self.bin / name).chmod(0o755)

    def add_tool(self, name: str, script: str) -> None:
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (self.bin / name).chmod(0o755)


@pytest.fixture
def bare(tmp_path: Path) -> Checkout:
    """A machine without Python."""
    checkout = Checkout(tmp_path / "my checkout", tmp_path / "bin", tmp_path / "log")
    (checkout.root / "papers/_commands").mkdir(parents=True)
    checkout.bin.mkdir()
    for name in ("reproduce.sh", "requirements.lock", "papers/_commands/help.txt"):
        shutil.copy(CHECKOUT / name, checkout.root / name)
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, f"{tool} is needed by reproduce.sh"
        (checkout.bin / tool).symlink_to(found)
    return checkout


@pytest.fixture
def checkout(bare: Checkout) -> Checkout:
    """A fresh clone on a machine with Python 3.12 and nothing installed."""
    bare.add_python()
    return bare


def _one_sentence(text: str) -> str:
    """The complaint: the only line beside the one that announces the set-up."""
    lines = [line for line in text.splitlines() if not line.startswith("Setting up ")]
    assert len(lines) == 1, text
    return lines[0]


def test_help_needs_no_python_and_installs_nothing(bare: Checkout) -> None:
    for words in ((), ("--help",), ("-h",), ("help",)):
        done = bare.call(*words)
        assert done.returncode == 0
        assert "./reproduce.sh vars" in done.stdout
    assert not bare.venv.exists()


def test_first_call_installs_and_second_does_not(checkout: Checkout) -> None:
    first = checkout.call("vars", "--quick")
    assert first.returncode == 0, first.stderr
    assert "papers <vars --quick>" in first.stdout
    assert len(checkout.installs) == 1
    assert str(checkout.root / "requirements.lock") in checkout.installs[0]
    second = checkout.call("list")
    assert "papers <list>" in second.stdout
    assert second.stderr == ""
    assert len(checkout.installs) == 1


def test_passes_arguments_status_and_folder(checkout: Checkout, tmp_path: Path) -> None:
    done = checkout.call("vars", "--output", "a b", cwd=tmp_path, FAKE_STATUS="1")
    assert done.returncode == 1
    assert f"papers <vars --output a b> in {checkout.root} from {tmp_path}" in done.stdout


def test_environment_elsewhere_may_be_named_relatively(checkout: Checkout, tmp_path: Path) -> None:
    for _ in range(2):
        done = checkout.call("list", cwd=tmp_path, RESIGHT_VENV="an environment")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "an environment/bin/python").exists()
    assert not checkout.venv.exists()
    assert len(checkout.installs) == 1


def test_missing_python_is_one_sentence(bare: Checkout) -> None:
    done = bare.call("vars")
    assert done.returncode == 2
    assert "Python 3.10 or newer was not found" in _one_sentence(done.stderr)
    assert not Path(f"{bare.venv}.lock").is_symlink()


def test_old_python_is_no_python(checkout: Checkout) -> None:
    assert "was not found" in _one_sentence(checkout.call("vars", FAKE_VERSION="3.9").stderr)
    done = checkout.call("vars", FAKE_VERSION="3.9", PYTHON="python3")
    assert done.returncode == 2
    assert "PYTHON=python3" in _one_sentence(done.stderr)


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("no-network", "No network"),
        ("no-space", "The disk is full"),
        ("broken", "not a supported wheel"),
    ],
)
def test_failed_install_is_one_sentence_and_the_next_call_repairs(checkout: Checkout, mode: str, sentence: str) -> None:
    failed = checkout.call("vars", FAKE_PIP=mode)
    assert failed.returncode == 2
    assert sentence in _one_sentence(failed.stderr)
    assert "papers" not in failed.stdout
    repaired = checkout.call("vars")
    assert repaired.returncode == 0, repaired.stderr
    assert "--force-reinstall" in checkout.installs[-1]
    checkout.call("vars")
    assert len(checkout.installs) == 2


def test_environment_without_stamp_is_completed_in_place(checkout: Checkout) -> None:
    checkout.call("list")
    kept = checkout.venv / "kept"
    kept.touch()
    (checkout.venv / "resight-stamp").unlink()
    assert checkout.call("list").returncode == 0
    assert kept.exists()
    assert len(checkout.installs) == 2
    assert "--force-reinstall" not in checkout.installs[-1]


def test_environment_that_was_cut_off_while_it_was_made_is_made_again(checkout: Checkout) -> None:
    checkout.venv.mkdir()
    (checkout.venv / "resight-unfinished").touch()
    (checkout.venv / "half").touch()
    assert checkout.call("list").returncode == 0
    assert not (checkout.venv / "half").exists()


def test_new_pins_are_installed(checkout: Checkout) -> None:
    checkout.call("list")
    with (checkout.root / "requirements.lock").open("a") as file:
        file.write("another==1.0\n")
    assert checkout.call("list").returncode == 0
    assert len(checkout.installs) == 2


def test_another_python_version_makes_a_new_environment(checkout: Checkout) -> None:
    checkout.call("list")
    (checkout.venv / "old").touch()
    assert checkout.call("list", FAKE_VERSION="3.13").returncode == 0
    assert not (checkout.venv / "old").exists()
    assert len(checkout.installs) == 2


def test_never_removes_a_folder_that_is_not_an_environment(checkout: Checkout, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    done = checkout.call("list", RESIGHT_VENV=str(mine))
    assert done.returncode == 2
    assert "is not a Python environment" in _one_sentence(done.stderr)
    assert (mine / "thesis.tex").exists()


def test_too_little_disk_is_said_before_anything_is_downloaded(checkout: Checkout) -> None:
    checkout.add_tool("df", "echo Filesystem 1024-blocks Used Available; echo /dev/sda 9 9 2097152 100% /")
    done = checkout.call("list")
    assert done.returncode == 2
    assert "2 GB are free" in _one_sentence(done.stderr)
    assert checkout.installs == []


def test_uv_is_used_where_there_is_one(checkout: Checkout) -> None:
    checkout.add_tool(
        "uv",
        'echo "uv $*" >>"$FAKE_LOG"; [ "$1" != venv ] || { mkdir -p "${!#}/bin"; cp "$(dirname "$0")/python3" '
        '"${!#}/bin/python"; }',
    )
    done = checkout.call("list")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in checkout.log.read_text().splitlines()] == [
        ["uv", "venv", "--allow-existing"],
        ["uv", "pip", "install"],
    ]
    assert "papers <list>" in checkout.call("list").stdout


def test_calls_at_the_same_time_install_once(checkout: Checkout) -> None:
    processes = [checkout.start("list", FAKE_PIP="brief") for _ in range(3)]
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert all("papers <list>" in out for out, _ in outputs)
    assert len(checkout.installs) == 1


def test_lock_of_a_process_that_is_gone_is_taken_over(checkout: Checkout) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    Path(f"{checkout.venv}.lock").symlink_to(f"{os.uname().nodename}:{gone.pid}")
    assert checkout.call("list").returncode == 0
    assert not Path(f"{checkout.venv}.lock").is_symlink()


def test_a_lock_that_cannot_be_made_is_one_sentence(checkout: Checkout) -> None:
    """As on a disk without a free inode."""
    checkout.add_tool("ln", "exit 1")
    done = checkout.call("list")
    assert done.returncode == 2
    assert "Cannot make the link" in _one_sentence(done.stderr)
    assert checkout.installs == []


def test_a_search_path_of_cd_changes_nothing(checkout: Checkout) -> None:
    folder = checkout.root.parent
    done = subprocess.run(
        ["bash", f"{checkout.root.name}/reproduce.sh", "list"],
        cwd=folder,
        env={"PATH": str(checkout.bin), "FAKE_LOG": str(checkout.log), "FAKE_VERSION": "3.12", "CDPATH": f".:{folder}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"in {checkout.root} from {folder}" in done.stdout


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_set_up_goes_on_at_the_next_call(checkout: Checkout, sent: signal.Signals) -> None:
    process = checkout.start("list", FAKE_PIP="slow")
    _wait(lambda: bool(checkout.installs))
    process.send_signal(sent)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "the next call goes on" in err
    assert not Path(f"{checkout.venv}.lock").is_symlink()
    assert checkout.call("list").returncode == 0
    assert "--force-reinstall" in checkout.installs[-1]


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "nothing happened within 10 s"
        time.sleep(0.05)


def test_ci_runs_the_same_tests() -> None:
    script = CHECKOUT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == 'exec "$(dirname "$0")/../reproduce.sh" test'
