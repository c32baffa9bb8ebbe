from __future__ import annotations

import hashlib
import json
import subprocess

import pytest

from common import provenance
from common.data.fashion_mnist import SHA256


def git(folder, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_commit_and_whether_files_differ_from_it(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-q", "-m", "first")
    clean = provenance.code(tmp_path)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "code.py").write_text("2")
    assert provenance.code(tmp_path) == {**clean, "dirty": True}
    git(tmp_path, "checkout", "-q", "code.py")
    reference = tmp_path / "results" / "reference" / "a.csv"
    reference.parent.mkdir(parents=True)
    reference.write_text("what was measured is no code")
    assert provenance.code(tmp_path) == clean
    (tmp_path / "new.py").write_text("3")
    assert provenance.code(tmp_path)["dirty"] is True


def test_a_checkout_of_another_owner_keeps_its_commit(monkeypatch):
    """As one that is mounted into a container."""
    ours = provenance.code()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    refused = subprocess.run(["git", "status"], cwd=provenance.PROJECT, capture_output=True, text=True, check=False)
    assert "dubious ownership" in refused.stderr
    assert provenance.code() == ours
    assert ours["commit"]


def test_a_checkout_of_which_git_says_nothing_is_mentioned(tmp_path, capfd):
    (tmp_path / ".git").mkdir()
    assert provenance.code(tmp_path) == {"commit": None, "dirty": None}
    assert "git gives no commit of this checkout" in capfd.readouterr().err


def test_outside_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.code(tmp_path) == {"commit": None, "dirty": None}


def test_a_copy_inside_another_repository_has_no_commit_of_its_own(tmp_path):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "of somebody else")
    inner = tmp_path / "vendored"
    inner.mkdir()
    assert provenance.code(inner) == {"commit": None, "dirty": None}


def test_without_git_installed_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.code() == {"commit": None, "dirty": None}


def test_what_is_collected_is_json_and_complete():
    found = json.loads(json.dumps(provenance.collect({"device": "cpu", "seed": 3})))
    assert found["settings"] == {"device": "cpu", "seed": 3}
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["cpu"]
    assert found["hardware"]["accelerator"] is None
    assert found["versions"]["python"].startswith("3.")
    assert found["versions"]["torch"][0].isdigit()
    assert found["versions"]["C compiler"]
    assert found["started"].endswith("+00:00")
    assert found["command"]


def test_data_are_identified_by_content_or_listing(tmp_path):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"weights")
    images = tmp_path / "imagenet" / "val" / "n01"
    images.mkdir(parents=True)
    (images / "a.jpg").write_bytes(b"1234")
    found = provenance.data(
        ["embedded", "imagenet", "checkpoint", "imagenet-c"], {"imagenet": tmp_path / "imagenet"}, weights
    )
    assert set(found) == {"embedded", "imagenet", "checkpoint"}
    assert found["embedded"]["sha256"] == SHA256
    assert found["checkpoint"]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert found["imagenet"]["files"] == 1
    assert found["imagenet"]["path"].endswith("val")


@pytest.mark.parametrize("change", ["size", "name", "more"])
def test_a_listing_tells_changed_folders_apart(tmp_path, change):
    (tmp_path / "a.jpg").write_bytes(b"1234")
    before = provenance.listing(tmp_path)
    assert provenance.listing(tmp_path) == before
    if change == "size":
        (tmp_path / "a.jpg").write_bytes(b"12345")
    elif change == "name":
        (tmp_path / "a.jpg").rename(tmp_path / "b.jpg")
    else:
        (tmp_path / "b.jpg").write_bytes(b"")
    assert provenance.listing(tmp_path)["listing_sha256"] != before["listing_sha256"]


def test_a_checkpoint_that_is_gone_has_no_sum(tmp_path):
    assert provenance.sha256(tmp_path / "gone.pth") is None
