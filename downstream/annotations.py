"""COCO's annotations as they are read, for training and for evaluation alike: complete, and with ids of their own.

pycocotools keeps annotations by their ids and takes an id of 0 for no match, so that a perfect detection counts as
wrong; it also looks up ``iscrowd``, which files of other tools leave out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.registry import DATASETS, METRICS


class Annotations(COCO):
    """Annotations numbered from 1 in the order of the file, each with ``iscrowd``, 0 where it is not said."""

    def createIndex(self) -> None:  # noqa: N802 (pycocotools')
        """Mend the annotations, then index them."""
        for number, note in enumerate(self.dataset.get("annotations", []), start=1):
            note["id"] = number
            note["iscrowd"] = int(note.get("iscrowd") or 0)
        super().createIndex()


@DATASETS.register_module()
class CocoImages(CocoDataset):
    """mmdet's data set of COCO's form, read as `Annotations`."""

    COCOAPI = Annotations


@METRICS.register_module()
class CocoAccuracy(CocoMetric):
    """mmdet's average precision against `Annotations`.

    Args:
        ann_file: of the ground truth.
        settings: mmdet's.
    """

    def __init__(self, ann_file: Path | str, **settings: Any) -> None:
        super().__init__(**settings)
        self._coco_api = Annotations(str(ann_file))
