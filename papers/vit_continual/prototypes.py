"""Continual learning with nothing trained: frozen features, and the mean of each class.

Pelosin, "Simpler is Better: off-the-shelf Continual Learning Through Pretrained Backbones", arXiv 2205.01586. A class
is learnt by one pass over its images and costs as many numbers as a feature has; what was learnt before is not touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from common.data.cifar import load_cifar
from common.data.folders import ImageFiles, visible_folders
from common.data.pixels import READ_ERRORS, read_image
from common.errors import UserError
from common.measurement import Measurement
from common.progress import track
from common.robustness.full_scale_measures import load_model
from common.run import Run
from common.statistics import wilson

#: CIFAR-10's statistics, by which the release normalises the images of every data set.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
#: Pixels of a side to which every image is stretched.
SIZE = 224
#: What is done, written with every number; the version rises when the procedure changes.
PROTOCOL = "prototypes/1 nearest class mean, Euclidean, images stretched to 224, CIFAR-10's statistics"


class ClassMeans:
    """The mean feature of each class, learnt batch by batch, and the nearest one as prediction.

    Args:
        features: numbers of a feature.
    """

    def __init__(self, features: int) -> None:
        self.sums = torch.zeros(0, features, dtype=torch.float64)
        self.counts = torch.zeros(0, dtype=torch.float64)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Learn from features (B, d) and labels (B,), of any classes, new ones among them."""
        new = int(labels.max()) + 1 - len(self.counts)
        if new > 0:
            self.sums = torch.cat([self.sums, self.sums.new_zeros(new, self.sums.shape[1])])
            self.counts = torch.cat([self.counts, self.counts.new_zeros(new)])
        self.sums.index_add_(0, labels, features.double())
        self.counts.index_add_(0, labels, torch.ones(len(labels), dtype=torch.float64))

    @property
    def means(self) -> Tensor:
        """(classes, d); of a class without images yet infinite, so that it is never the nearest."""
        return torch.where(self.counts[:, None] > 0, self.sums / self.counts[:, None].clamp(min=1), torch.inf)

    def predict(self, features: Tensor, cosine: bool = False) -> Tensor:
        """The class (B,) of the nearest mean to each feature (B, d): by Euclidean distance, or by angle.

        Raises:
            UserError: nothing was learnt.
        """
        if not bool(self.counts.any()):
            raise UserError("No class has a mean yet: add its images first.")
        known = (self.counts > 0).nonzero()[:, 0]
        means, features = self.means[known], features.double()
        if cosine:
            near = nn.functional.normalize(features, dim=1) @ nn.functional.normalize(means, dim=1).T
        else:
            near = -torch.cdist(features, means)
        return known[near.argmax(dim=1)]


#: Images (3, h, w), uint8, and labels of a folder's training or test part; of so many of a fixed random order.
Reader: TypeAlias = Callable[[Path, bool, int | None], Iterable[tuple[Tensor, Tensor]]]


def _measuring(need: str, classes: int, read: Reader) -> Any:
    def measure(run: Run) -> Iterator[Measurement]:
        model, name, weights = load_model(run)
        device, folder, limit = torch.device(run.settings.device), run.settings.folders[need], run.settings.limit
        start = time.perf_counter()
        learnt = ClassMeans(int(getattr(model, "num_features")))  # noqa: B009
        for images, labels in _batches(read(folder, True, limit), run.settings.batch_size, f"{need}, training images"):
            learnt.add(_features(model, images, device), labels)
        seconds = time.perf_counter() - start
        if len(learnt.counts) != classes and not limit:
            raise UserError(f"{folder} has {len(learnt.counts)} classes to learn, {need} has {classes}.")
        right = count = 0
        for images, labels in _batches(read(folder, False, limit), run.settings.batch_size, f"{need}, test images"):
            right += int((learnt.predict(_features(model, images, device)) == labels).sum())
            count += len(labels)
        share = wilson(right, count)
        choice = f", of a fixed random order {limit} images to learn from and {limit} to ask about" if limit else ""
        common: dict[str, Any] = {
            "model": name, "dataset": need, "weights": weights, "protocol": PROTOCOL + choice, "n": count,
        }  # fmt: skip
        yield Measurement(
            metric="top1", value=100 * share.value, unit="%", interval=(100 * share.low, 100 * share.high),
            over="images", **common,
        )  # fmt: skip
        yield Measurement(metric="prototype_time", value=seconds, unit="s", **common)

    measure.__doc__ = f"Learn the class means of {need} with the user's checkpoint, and measure them."
    return measure


def _cifar(name: str) -> Reader:
    def read(folder: Path, train: bool, limit: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = load_cifar(name, folder, train=train)
        for place in _chosen(len(images), limit):
            yield images[place], labels[place]

    return read


def _folders(folder: Path, train: bool, limit: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    parts = [folder / part for part in ("train", "test")]
    for part in parts:
        if not part.is_dir():
            raise UserError(f"{part} is not there: class folders of images are read from train and from test.")
    learnt, asked = map(visible_folders, parts)
    if learnt != asked:
        odd = min(set(learnt) ^ set(asked))
        raise UserError(f"The class folder {odd} is in one of {parts[0]} and {parts[1]} alone; give it in both.")
    files = ImageFiles(parts[0] if train else parts[1])
    for place in _chosen(len(files), limit):
        file, label = files[place]
        try:
            picture = read_image(file)
        except READ_ERRORS as error:
            raise UserError(f"{files.filename(place, absolute=True)} cannot be read ({error}); restore it.") from None
        yield (
            v2.functional.resize(v2.functional.pil_to_tensor(picture), [SIZE, SIZE], antialias=True),
            torch.tensor(label),
        )


def _chosen(count: int, limit: int | None) -> list[int]:
    """The places of all images, or of ``limit`` of a fixed random order, so that they cover the classes."""
    return sorted(np.random.default_rng(0).permutation(count)[:limit].tolist())


def _batches(pairs: Iterable[tuple[Tensor, Tensor]], size: int, what: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (B, 3, h, w), uint8, and labels (B,)."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for image, label in track(pairs, what, None):
        images.append(image)
        labels.append(label)
        if len(images) == size:
            yield torch.stack(images), torch.stack(labels)
            images, labels = [], []
    if images:
        yield torch.stack(images), torch.stack(labels)


@torch.inference_mode()
def _features(model: Any, images: Tensor, device: torch.device) -> Tensor:
    """Features (B, d), on the CPU, of uint8 images (B, 3, h, w)."""
    pixels = v2.functional.resize(images, [SIZE, SIZE], antialias=True).to(device).float() / 255
    pixels = v2.functional.normalize(pixels, list(MEAN), list(STD))
    return model.forward_head(model.forward_features(pixels), pre_logits=True).cpu()


prototypes_cifar_10 = _measuring("cifar-10", 10, _cifar("torch/cifar10"))
prototypes_cifar_100 = _measuring("cifar-100", 100, _cifar("torch/cifar100"))
prototypes_flowers_102 = _measuring("flowers-102", 102, _folders)
prototypes_core50 = _measuring("core50", 50, _folders)
prototypes_tiny_imagenet_200 = _measuring("tiny-imagenet-200", 200, _folders)
