"""Segmentation by attention on PASCAL VOC 2012, as released: 512 pixels, 90 % of the attention, the best head."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.attention import KEPT_SHARE, attention_masks, best_head, resize_input
from common.checkpoints import taken_weights
from common.data.loading import collation, received, watched_loaders
from common.data.preprocessing import Preprocessing
from common.data.voc import VOID, VOCSegmentation, class_masks
from common.errors import UserError
from common.measurement import Measurement
from common.progress import console, track
from common.robustness.full_scale_measures import load_model
from common.run import Run
from common.statistics import mean_interval

DATASET = "pascal-voc-2012"
SIDE = 512
#: Pictures between two times that numbers are brought to disk.
CHUNK = 50
#: Of each pixel: three channels in float32, and a class.
PICTURE_BYTES = 13
#: Metric to the token whose attention is asked.
TOKENS = {"jaccard": 0, "jaccard_distillation_token": 1}


def measure(run: Run) -> Iterator[Measurement]:
    """Mean Jaccard index over pictures, of the class token and, in a distilled network, of the distillation token.

    Raises:
        UserError: the network has no attention, or takes no other images than those it was built for.
    """
    model, name, weights = load_model(run)
    declared = Preprocessing.of(model)
    side = resize_input(model, SIDE)
    pictures = VOCSegmentation(run.settings.folders["pascal-voc"], side)
    for metric, token in TOKENS.items():
        if token and not hasattr(model, "dist_token"):
            continue  # what follows a class token may be a register
        scores = np.array(_scores(run, model, pictures, declared, name, token))
        scores = scores[~np.isnan(scores).any(axis=1)]
        if not len(scores):
            raise UserError(f"{pictures.folder} has no picture with an object among those that were measured.")
        estimate = mean_interval(100 * scores[:, 0])
        protocol = f"{metric}/1 best head, share {KEPT_SHARE:g}, {side} pixels, void is background"
        yield Measurement(
            model=name,
            dataset=DATASET,
            metric=metric,
            value=estimate.value,
            unit="%",
            weights=weights,
            interval=estimate.interval,
            n=len(scores),
            protocol="; ".join(filter(None, [protocol, taken_weights(model)])),
            detail={"without_void": 100 * float(scores[:, 1].mean())},
        )


@cache
def _say_once(sentence: str) -> None:
    console.print(sentence, highlight=False, soft_wrap=True)


def _scores(
    run: Run, model: nn.Module, pictures: VOCSegmentation, declared: Preprocessing, name: str, token: int
) -> list[list[float]]:
    """Per picture the index with void as background, and without void pixels; NaN where there is no object."""
    count = min(len(pictures), run.settings.limit or len(pictures))
    scores: list[list[float]] = []
    for first in track(range(0, count, CHUNK), f"{DATASET}, token {token}"):
        chunk = range(first, min(first + CHUNK, count))

        def compute(chunk: range = chunk) -> list[list[float]]:
            workers, bytes_each = run.settings.workers, PICTURE_BYTES * pictures.side**2
            loader = DataLoader(
                pictures,
                batch_size=None,
                sampler=chunk,
                num_workers=workers,
                collate_fn=collation(tuple, workers, bytes_each, _say_once),
            )
            with watched_loaders():
                return [
                    score(model, image, classes, declared, token)
                    for image, classes in map(received, islice(loader, len(chunk)))
                ]

        scores += run.memo(f"{DATASET} {pictures.folder} {name} token {token} pictures {chunk}", compute)
    return scores


def score(model: nn.Module, image: Tensor, classes: Tensor, declared: Preprocessing, token: int) -> list[float]:
    """Jaccard index of one picture (3, H, W) in [0, 1] with its map (H, W), void as background and left out."""
    device = next(model.parameters()).device
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (declared.mean, declared.std))
    masks = attention_masks(model, ((image - mean) / std)[None].to(device), token=token).cpu()
    truth = class_masks(classes)[None]
    counted = (classes != VOID)[None]
    return [float(best_head(masks, truth)), float(best_head(masks, truth, counted))]
