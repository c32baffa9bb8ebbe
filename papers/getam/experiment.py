"""Networks of the bench's size that learn to segment scenes from image-level labels, and what is measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import bench
from common.attention import token_grid
from common.bench import hosts, scenes
from common.bench.scenes import Scenes
from common.training.hooks import Hook, Training
from common.training.preparation import Preparation
from common.training.recipe import Recipe
from papers.getam.labels import normalised
from papers.getam.method import Reading, class_activation, class_maps, grad_cam, raw_attention, rollout
from papers.getam.model import Readout
from papers.getam.refinement import refine
from papers.getam.training import SingleStage, labels_for

#: Readings of a transformer's maps, by the names in tables.
READINGS: Mapping[str, Reading] = {
    "getam": class_activation,
    "attention_gradient": partial(class_activation, square=False),
    "grad_cam": grad_cam,
    "attention": raw_attention,
    "rollout": rollout,
}
#: Class activation mapping (Zhou et al., CVPR 2016), of any network with a linear classifier on averaged maps.
CAM = "cam"
#: Scores of the background that are tried; maps are in [0, 1].
THRESHOLDS = tuple(step / 20 for step in range(1, 20))
#: Images of a pass.
BATCH = 250


class Segmenter(nn.Module):
    """The bench's ``vit_mini`` with GETAM's readout and classifier, and a decoder for 14 x 14 places.

    Attributes:
        segmenting: as of `model.DPT`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = hosts.vit_mini(num_classes=0)
        self.backbone.norm, self.backbone.fc_norm = nn.Identity(), nn.Identity()
        dim = self.backbone.embed_dim
        self.num_classes, self.segmenting = hosts.CLASSES, False
        self.readout = Readout(dim, 1)
        self.head = nn.Linear(dim, hosts.CLASSES)
        self.coarse = nn.Conv2d(dim, 32, 3, padding=1)
        self.fine = nn.Sequential(*hosts.convolution(32 + 16, 32), nn.ReLU())
        self.segmentation = nn.Conv2d(32, scenes.SEMANTIC, 1)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (B, 48, 7, 7) of images (B, 3, 28, 28)."""
        return self.readout(self.backbone.forward_features(x), token_grid(self.backbone.patch_embed.num_patches, 1, 1))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, 10), or the averaged features."""
        pooled = x.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def segment(self, images: Tensor, features: Tensor) -> Tensor:
        """Logits of pixels (B, 11, 28, 28) from images and their ``forward_features``."""
        early = self.backbone.patch_embed.proj[:3](images)  # 14 x 14 places of the stem
        x = F.interpolate(self.coarse(features).relu(), scale_factor=2, mode="bilinear", align_corners=False)
        x = self.segmentation(self.fine(torch.cat([x, early], dim=1)))
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of classes, and in training those of pixels where ``segmenting``."""
        features = self.forward_features(x)
        logits = self.forward_head(features)
        return (logits, self.segment(x, features)) if self.segmenting and self.training else logits


def supervision(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """What is known of training scenes: their classes, and the garment of most pixels, the only one that is salient.

    So saliency is exact where it sees an object, and overlooks the other one, as detectors do.
    """
    return known_of(scenes.training_scenes()[numbers.cpu()])


def known_of(some: Scenes) -> tuple[Tensor, Tensor]:
    """Classes (N, 10) and saliency (N, 28, 28), bool."""
    sizes = torch.stack([(some.order == place).flatten(1).sum(dim=1) for place in (1, 2)], dim=1)
    return some.classes(), some.order == 1 + sizes.argmax(dim=1)[:, None, None]


def single_stage(recipe: Recipe) -> Sequence[Hook]:
    """GETAM's hook, with what is known of scenes."""
    return [SingleStage(recipe, supervision)]


class ImageLabels(Hook):
    """Train a classifier of any kind by the image-level labels of scenes."""

    def on_batch(self, run: Training, batch: object) -> None:
        """Look them up."""
        present, _ = supervision(batch.labels)  # type: ignore[attr-defined]
        self._present = present.to(run.device).float()
        batch.targets = self._present / self._present.sum(dim=1, keepdim=True)  # type: ignore[attr-defined]

    def on_loss(self, run: Training, batch: object, loss: Tensor) -> Tensor:
        """The loss of several labels."""
        return F.multilabel_soft_margin_loss(batch.logits, self._present)  # type: ignore[attr-defined]


def image_labels(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a classifier."""
    return [ImageLabels()]


# -- what is measured


def maps_of(model: nn.Module, images: Tensor, present: Tensor, reading: str) -> Tensor:
    """Maps (B, K, 28, 28) in [0, 1], refined, of classes that are there; ``images`` are normalised."""
    if reading == CAM:
        with torch.no_grad():
            features = model.forward_features(images)  # type: ignore[operator]
            head = model.head
            maps = torch.einsum("bchw,kc->bkhw", features, head.weight).relu() * present[:, :, None, None]  # type: ignore[union-attr]
    else:
        maps = class_maps(model, images, present, READINGS[reading])
        maps = maps.unflatten(2, token_grid(maps.shape[2], *images.shape[-2:]))
    with torch.no_grad():
        # Only maps of classes that are there are refined, an image more than once where there are several.
        image, label = present.nonzero(as_tuple=True)
        fine = images.new_zeros(*present.shape, *images.shape[-2:])
        fine[image, label] = refine(images[image], maps[image, label][:, None], iterations=4, dilations=(1, 2))[:, 0]
        return normalised(fine)


def miou_of_maps(model: nn.Module, recipe: Recipe, quick: bool, reading: str) -> float:
    """Mean IoU, in [0, 1], of the class of the largest map value, or of background where none is above a threshold.

    The threshold is the best one on other scenes. Image-level labels are given, as they are for training images.
    """

    def every(some: Scenes) -> Tensor:
        prepare = Preparation(recipe, next(model.parameters()).device)
        parts = []
        for start in range(0, len(some), BATCH):
            part = some[slice(start, start + BATCH)]
            parts.append(maps_of(model, prepare.normalise(part.images), part.classes(), reading).cpu())
        return torch.cat(parts)

    def labelled(maps: Tensor, threshold: float) -> Tensor:
        return torch.where(maps.amax(dim=1) > threshold, 1 + maps.argmax(dim=1), 0)

    tuning, test = scenes.tuning_scenes(quick), scenes.test_scenes(quick)
    maps = every(tuning)
    best = max(THRESHOLDS, key=lambda threshold: scenes.miou(labelled(maps, threshold), tuning.semantic))
    return scenes.miou(labelled(every(test), best), test.semantic)


def measure_maps(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """``top1``, and ``map_miou/READING`` of each reading that the network allows."""
    readings = [CAM, *READINGS] if isinstance(model, Segmenter) else [CAM]
    return {
        "top1": largest_first(model, recipe, quick),
        **{f"map_miou/{reading}": miou_of_maps(model, recipe, quick, reading) for reading in readings},
    }


def measure_segmentation(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """``top1``; ``miou`` of the segmentation network; ``label_miou``, of the labels that its maps give."""
    assert isinstance(model, Segmenter)
    test = scenes.test_scenes(quick)
    hook = SingleStage(recipe)
    prepare = Preparation(recipe, next(model.parameters()).device)
    predicted, labels = [], []
    for start in range(0, len(test), BATCH):
        part = test[slice(start, start + BATCH)]
        images = prepare.normalise(part.images)
        labels.append(labels_for(model, images, *known_of(part), hook.settings)[0].cpu())
        predicted.append(segmented(model, images).cpu())
    return {
        "top1": largest_first(model, recipe, quick),
        "miou": scenes.miou(torch.cat(predicted), test.semantic),
        "label_miou": scenes.miou(torch.cat(labels), test.semantic),
    }


@torch.inference_mode()
def segmented(model: Segmenter, images: Tensor) -> Tensor:
    """The class of each pixel (B, 28, 28), background 0; ``images`` are normalised."""
    return model.segment(images, model.forward_features(images)).argmax(dim=1)


def largest_first(model: nn.Module, recipe: Recipe, quick: bool) -> np.ndarray:
    """Whether the largest logit is that of the class of most pixels, by image: (cells, n) of 0 and 1."""
    test = scenes.test_scenes(quick)
    cells = 2
    return bench.correct(
        bench.normalised(model, recipe),
        test.images.unflatten(0, (cells, -1)),
        test.largest().view(cells, -1),
    )
