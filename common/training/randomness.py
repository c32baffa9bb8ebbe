"""Random numbers from counters: each draw of a run follows from (seed, purpose, counters) alone.

Nothing has to be stored to resume: the generator of step 1234 is made from the seed and 1234, whatever was drawn
before. The same holds for a sample, whose augmentation depends on its position in the epoch and not on the number
of loader workers or processes.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *counters: int) -> int:
    """Return a 63-bit seed that differs for each combination of the arguments.

    Args:
        seed: the run's seed.
        purpose: what is drawn, e.g. ``"order"`` or ``"step"``.
        counters: where in the run it is drawn, e.g. epoch and position.
    """
    text = f"{seed}/{purpose}/{'/'.join(map(str, counters))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """Return a CPU generator seeded with `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *counters))


def seed_global(seed: int, purpose: str, *counters: int) -> None:
    """Seed Python's, NumPy's and torch's global generators, on which timm's augmentations and dropout draw."""
    value = derive_seed(seed, purpose, *counters)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)  # noqa: NPY002 (timm's Mixup draws on the legacy generator)
    torch.default_generator.manual_seed(value)  # torch.manual_seed looks for every kind of device, at 50 times the cost
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
    elif torch.backends.mps.is_available():
        torch.mps.manual_seed(value)


@contextmanager
def preserved_global_state() -> Iterator[None]:
    """Leave the caller's global generators as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
