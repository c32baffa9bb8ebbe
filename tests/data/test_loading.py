"""Loader processes where shared memory is scarce, and where one of them is killed."""

from __future__ import annotations

import os
import signal
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from common.data import loading
from common.data.loading import ByPipe, collation, received, watched_loaders
from common.errors import UserError


def pair(samples: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of two tensors."""
    return torch.tensor(samples), torch.tensor(samples).float()


def test_batches_go_through_pipes_where_shared_memory_cannot_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(loading, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(6 * 100))
    assert collation(pair, 2, 100, said.append) is pair
    assert collation(pair, 0, 10**9, said.append) is pair
    assert not said
    by_pipe = collation(pair, 2, 101, said.append)
    assert isinstance(by_pipe, ByPipe)
    assert "--shm-size" in said[0]
    whole = [received(batch) for batch in DataLoader(range(6), batch_size=3, num_workers=1, collate_fn=by_pipe)]
    for ours, theirs in zip(whole, (pair([0, 1, 2]), pair([3, 4, 5])), strict=True):
        assert all(map(torch.equal, ours, theirs))


class Killed(torch.utils.data.Dataset):
    """Its loader process is killed at the second item."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_killed_loader_process_ends_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"was killed by the system.*shared memory.*--shm-size"), watched_loaders():
        list(DataLoader(Killed(), num_workers=2, collate_fn=default_collate))
    with pytest.raises(RuntimeError, match="another"), watched_loaders():
        raise RuntimeError("another")
