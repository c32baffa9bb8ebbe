"""Segmentation of PASCAL VOC 2012's validation pictures by a trained network, at three sizes as released."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.checkpoints import taken_weights
from common.data.loading import collation, received, watched_loaders
from common.data.preprocessing import Preprocessing
from common.data.voc import VOID, VOCSegmentation
from common.errors import UserError
from common.measurement import Measurement
from common.progress import console, track
from common.robustness.full_scale_measures import load_model
from common.run import Run
from papers.getam.model import DPT

DATASET = "pascal-voc-2012-val"
#: Sides of the squares that the network sees, and of the one on which its logits are compared with the map.
SIDES, SIDE = (256, 320, 480), 480
#: Pictures between two times that counts are brought to disk.
CHUNK = 50
#: Of each pixel: three channels in float32, and a class.
PICTURE_BYTES = 13


def measure(run: Run) -> Iterator[Measurement]:
    """Mean IoU over background and the classes, from the counts of all pictures.

    Raises:
        UserError: the network does not segment VOC's classes.
    """
    model, name, weights = load_model(run)
    if not isinstance(model, DPT) or model.num_classes != 20:
        raise UserError(f"{name} does not segment PASCAL VOC's 20 classes: give a checkpoint of GETAM's networks.")
    declared = Preprocessing.of(model)
    pictures = VOCSegmentation(run.settings.folders["pascal-voc"], SIDE)
    count = min(len(pictures), run.settings.limit or len(pictures))
    total = np.zeros((21, 21), dtype=np.int64)
    for first in track(range(0, count, CHUNK), DATASET):
        chunk = range(first, min(first + CHUNK, count))

        def compute(chunk: range = chunk) -> list[list[int]]:
            workers, bytes_each = run.settings.workers, PICTURE_BYTES * SIDE**2
            collate = collation(tuple, workers, bytes_each, _say_once)
            loader = DataLoader(pictures, batch_size=None, sampler=chunk, num_workers=workers, collate_fn=collate)
            with watched_loaders():
                images = map(received, islice(loader, len(chunk)))
                parts = [confusion(model, image, classes, declared) for image, classes in images]
            return torch.stack(parts).sum(dim=0).tolist()

        total += np.array(run.memo(f"{DATASET} {pictures.folder} {name} pictures {chunk}", compute))
    both = np.diag(total)
    either = total.sum(axis=0) + total.sum(axis=1) - both
    yield Measurement(
        model=name,
        dataset=DATASET,
        metric="miou",
        value=100 * float((both[either > 0] / either[either > 0]).mean()),
        unit="%",
        weights=weights,
        n=count,
        protocol="; ".join(filter(None, [f"miou/1 mean logits at {SIDES}, no CRF, at {SIDE}", taken_weights(model)])),
        detail={"iou": [100 * float(b / e) if e else None for b, e in zip(both, either, strict=True)]},
    )


@torch.inference_mode()
def confusion(model: nn.Module, image: Tensor, classes: Tensor, declared: Preprocessing) -> Tensor:
    """Pixels by true and predicted class, (21, 21), void left out.

    Args:
        model: a network of GETAM in eval mode.
        image: (3, H, W) in [0, 1].
        classes: (H, W), of 0 to 20 and void.
        declared: the network's preprocessing.
    """
    assert isinstance(model, DPT)
    device = next(model.parameters()).device
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (declared.mean, declared.std))
    normalised = ((image - mean) / std)[None].to(device)
    logits = torch.zeros(1, 1 + model.num_classes, *classes.shape, device=device)
    for side in SIDES:
        seen = F.interpolate(normalised, size=(side, side), mode="bilinear", align_corners=False, antialias=False)
        own = model.segment(model.forward_features(seen))
        logits += F.interpolate(own, size=tuple(classes.shape), mode="bilinear", align_corners=False)
    predicted, truth = logits[0].argmax(dim=0).cpu().flatten(), classes.long().flatten()
    known = truth != VOID
    return torch.bincount(21 * truth[known] + predicted[known], minlength=441).view(21, 21)


@cache
def _say_once(sentence: str) -> None:
    console.print(sentence, highlight=False, soft_wrap=True)
