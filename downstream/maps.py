"""mmseg's data sets without hidden folders (``.ipynb_checkpoints``), whose images mmseg would take, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS
from mmseg.datasets import ADE20KDataset, BaseSegDataset, CityscapesDataset

from common.data.folders import is_hidden


class _Visible(BaseSegDataset):
    def load_data_list(self) -> list[dict[str, Any]]:
        """What mmseg finds, but hidden files and files in hidden folders."""
        folder = self.data_prefix["img_path"]
        found = super().load_data_list()
        return [each for each in found if not any(map(is_hidden, Path(each["img_path"]).relative_to(folder).parts))]


@DATASETS.register_module()
class VisibleSegDataset(_Visible):
    """mmseg's data set of any classes."""


@DATASETS.register_module()
class VisibleADE20KDataset(_Visible, ADE20KDataset):
    """mmseg's ADE20K."""


@DATASETS.register_module()
class VisibleCityscapesDataset(_Visible, CityscapesDataset):
    """mmseg's Cityscapes."""
