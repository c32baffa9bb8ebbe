"""Batches of OpenMMLab's loader processes where memory that processes share is scarce, see `common.data.loading`.

Its batches are dicts of lists and data samples, which go through pipes as one piece and are put together again before
each step.
"""

from __future__ import annotations

import pickle
from functools import cache
from typing import Any

from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS, HOOKS
from mmengine.runner import Runner

from common.data.loading import ByPipe, collation
from common.progress import console

#: Pixels of the largest images of the data sets that there are configs for, Cityscapes'.
_PIXELS = 2048 * 1024
#: Of each pixel: three channels, and the class as an integer of 64 bits.
_PIXEL_BYTES = 3 + 8
#: Under what a batch is handed over.
_PACKED = "packed"


def arrange(loader: Any) -> None:
    """Let the loader of a config hand its batches over by pipes where shared memory could not hold them."""
    batch_bytes = loader.get("batch_size", 1) * _PIXELS * _PIXEL_BYTES
    if isinstance(collation(pseudo_collate, loader.num_workers, batch_bytes, _say_once), ByPipe):
        loader.collate_fn = {"type": "packed_collate", "collate": loader.get("collate_fn", {"type": "pseudo_collate"})}


@cache
def _say_once(sentence: str) -> None:
    console.print(sentence, highlight=False, soft_wrap=True)


@FUNCTIONS.register_module()
def packed_collate(samples: Any, collate: dict[str, Any]) -> dict[str, bytes]:
    """A batch as bytes, in which no tensor is left that would go through shared memory."""
    settings = dict(collate)
    return {_PACKED: pickle.dumps(FUNCTIONS.get(settings.pop("type"))(samples, **settings))}


@HOOKS.register_module()
class Unpack(Hook):
    """Puts packed batches together again before anybody sees them; others stay."""

    priority = "HIGHEST"

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = "train") -> None:
        if isinstance(data_batch, dict) and _PACKED in data_batch:
            data_batch.update(pickle.loads(data_batch.pop(_PACKED)))
