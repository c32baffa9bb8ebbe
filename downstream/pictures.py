"""Predictions on canvases, as figures of a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO

from common import figures
from common.measurement import Picture
from downstream.composition import GARMENTS, SEMANTIC

if TYPE_CHECKING:
    from downstream.training import Training

#: Detections that are shown are at least this certain.
_CERTAIN = 0.3


def predictions(training: Training, count: int) -> list[dict[str, Any]]:
    """What the model says about the first validation images, JSON-able: ``boxes``, ``labels``, ``masks`` or ``map``."""
    found = []
    for sample in training.predict(count):
        if "pred_instances" in sample:
            instances = sample.pred_instances[sample.pred_instances.scores >= _CERTAIN].cpu()
            codes = [run_lengths.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in instances.masks]
            found.append(
                {
                    "boxes": instances.bboxes.round(decimals=1).tolist(),
                    "labels": instances.labels.tolist(),
                    "masks": [{"size": code["size"], "counts": code["counts"].decode("ascii")} for code in codes],
                }
            )
        else:
            found.append({"map": sample.pred_sem_seg.data[0].cpu().tolist()})
    return found


def _true_instances(coco: COCO, image: int) -> dict[str, Any]:
    notes = coco.loadAnns(coco.getAnnIds(imgIds=[image]))
    boxes = [[x, y, x + width, y + height] for x, y, width, height in (note["bbox"] for note in notes)]
    return {
        "boxes": boxes,
        "labels": [note["category_id"] - 1 for note in notes],
        "masks": [note["segmentation"] for note in notes],
    }


def picture(task: str, canvases: Path, by_label: dict[str, list[dict[str, Any]]]) -> Picture:
    """Truth and predictions of each model, a column an image."""
    count = len(next(iter(by_label.values())))
    if task == "detection":
        import contextlib
        import io

        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(canvases / "coco" / "annotations" / "instances_val2017.json")
        ids = sorted(coco.getImgIds())[:count]
        files = [canvases / "coco" / "val2017" / coco.loadImgs([each])[0]["file_name"] for each in ids]
        truth = [_true_instances(coco, each) for each in ids]
        names: tuple[str, ...] = GARMENTS
    else:
        files = sorted((canvases / "ade20k" / "images" / "validation").glob("*.jpg"))[:count]
        maps = [canvases / "ade20k" / "annotations" / "validation" / f"{file.stem}.png" for file in files]
        truth = [{"map": (np.asarray(Image.open(each)).astype(int) - 1).tolist()} for each in maps]
        names = SEMANTIC
    images = [np.asarray(Image.open(file).convert("L")) for file in files]
    return Picture(
        name=f"predictions_{task}",
        caption=(
            f"{'Detections of at least 30 % certainty' if task == 'detection' else 'Semantic maps'} on canvases of the "
            f"validation set, of the first seed; the first row is the truth."
        ),
        svg=_draw(task, images, {"truth": truth, **by_label}, names),
    )


def training(task: str, network: str, losses: dict[str, list[list[tuple[int, float]]]]) -> Picture:
    """Loss over the iterations of training, mean over seeds.

    Args:
        task: ends the figure's name.
        network: what is trained, for the caption.
        losses: of each backbone and seed, as iterations done and loss. A training that was interrupted has only those
            of its end, and is left out where others are whole.
    """
    lines, seeds = {}, 0
    for label, of_seeds in losses.items():
        whole = [points for points in of_seeds if len(points) == max(map(len, of_seeds))]
        if whole:
            seeds = max(seeds, len(whole))
            values = np.mean([[loss for _, loss in points] for points in whole], axis=0)
            lines[label] = ([done for done, _ in whole[0]], values.tolist())
    return Picture(
        name=f"training_{task}",
        caption=f"Loss of {network} over the iterations of training, mean of {seeds} seed{'' if seeds == 1 else 's'}.",
        svg=figures.curves(f"training_{task}", lines, xlabel="iterations", ylabel="loss", markers=False),
    )


def _draw(task: str, images: list[np.ndarray], rows: dict[str, list[dict[str, Any]]], names: tuple[str, ...]) -> str:
    from matplotlib.patches import Patch

    offset = 0 if task == "detection" else -1  # the background of a semantic map has no colour
    with figures.figure(f"predictions_{task}", width=1.5 * len(images) + 1.6, height=1.5 * len(rows)) as drawn:
        axes = drawn.subplots(len(rows), len(images), squeeze=False)
        for row, (label, predicted) in zip(axes, rows.items(), strict=True):
            row[0].set_ylabel(label)
            for axis, image, each in zip(row, images, predicted, strict=True):
                axis.imshow(image, cmap="gray", vmin=0, vmax=255)
                axis.imshow(_overlay(each, image.shape, offset))
                for (x1, y1, x2, y2), kind in zip(each.get("boxes", []), each.get("labels", []), strict=True):
                    axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=_colour(kind), linewidth=1)
                axis.set_xticks([])
                axis.set_yticks([])
        shown = [(name, position + offset) for position, name in enumerate(names) if position + offset >= 0]
        handles = [Patch(color=_colour(kind), label=name) for name, kind in shown]
        drawn.legend(handles=handles, loc="outside right upper")
        return figures.to_svg(drawn)


def _colour(kind: int) -> str:
    return figures.COLOURS[kind % len(figures.COLOURS)]


def _overlay(each: dict[str, Any], shape: tuple[int, ...], offset: int) -> np.ndarray:
    """Half-transparent colours (H, W, 4) of masks or of a semantic map."""
    from matplotlib.colors import to_rgba

    overlay = np.zeros((*shape, 4))
    if "map" in each:
        kinds = np.asarray(each["map"]) + offset
        for kind in range(int(kinds.max()) + 1):
            overlay[kinds == kind] = to_rgba(_colour(kind), 0.5)
    else:
        for code, kind in zip(each["masks"], each["labels"], strict=True):
            overlay[run_lengths.decode(code).astype(bool)] = to_rgba(_colour(kind), 0.4)
    return overlay
