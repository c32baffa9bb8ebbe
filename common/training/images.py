"""Training data from files, read by timm: image folders, tar files, WebDataset shards, Hugging Face, TFDS.

Each sample of an indexed data set draws its augmentation from (seed, epoch, position), so a batch is the same
whatever the number of workers or processes, and after a resume.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from timm.data import IterableImageDataset, auto_augment, create_dataset, create_transform
from timm.data.transforms import str_to_interp_mode
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from torchvision import transforms

from common.data.cifar import CLASSES
from common.data.folders import ImageFiles
from common.data.loading import collation, received
from common.data.pixels import READ_ERRORS, UnreadableImage, eight_bits, read_image
from common.errors import UserError, nearest
from common.training.data import Plan, epoch_order, epoch_steps, validation_order
from common.training.randomness import derive_seed, generator, seed_global
from common.training.recipe import Recipe

#: Names under which the two parts of an image folder or of a pair of tar files are found.
TRAIN_NAMES = ("train", "training")
VALIDATION_NAMES = ("val", "validation", "valid", "eval", "test")
#: What reads the data sets of each prefix, and how to install it.
PACKAGES = {
    "wds/": (("webdataset",), "'resight[streams]'"),
    "hfds/": (("datasets",), "'resight[streams]'"),
    "hfids/": (("datasets",), "'resight[streams]'"),
    "tfds/": (("tensorflow", "tensorflow_datasets"), "'resight[tfds]'"),
}
#: Images of a forward pass in evaluation.
EVALUATION_BATCH = 128

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where timm finds images.

    Args:
        root: folder with ``train`` and ``val`` (a folder per class in each, as ImageNet), or with ``train.tar`` and
            ``val.tar``; root of the shards; cache folder of Hugging Face or TFDS.
        dataset: timm's name: empty for folder and tar, ``"wds/"``, ``"hfds/NAME"``, ``"hfids/NAME"``, ``"tfds/NAME"``.
        train_split: name of the split, or the shards as ``"train-{0000..0099}.tar|100000"`` with their image count.
        validation_split: likewise.
        train_images: number of training images where a stream does not say it.
        validation_images: number of validation images where a stream does not say it.
    """

    root: Path
    dataset: str = ""
    train_split: str = "train"
    validation_split: str = "validation"
    train_images: int = 0
    validation_images: int = 0


class ImageData:
    """Images from files for `common.training.loop.train`.

    Args:
        source: where they are.
        recipe: decides crops, augmentation and the number of channels (one for each value of its ``mean``).
        workers: processes that decode; 0: decode in the main process. Streams have at least one and no more than
            shards; each reads shards of its own, so an epoch shows every image once where they have equal shares.
        skip_unreadable: take the next image in place of a training image that cannot be read, with a warning. In
            evaluation an unreadable image always is an error, since leaving it out would change the metric.

    Raises:
        UserError: nothing is found there, or training and validation set name different classes.
    """

    def __init__(self, source: Source, recipe: Recipe, *, workers: int = 4, skip_unreadable: bool = False) -> None:
        if recipe.train_crop == "padded":
            raise UserError("Images from files are cropped by train_crop random_resized, simple or none, not padded.")
        self.source, self.workers, self.skip_unreadable = source, workers, skip_unreadable
        self._mode = "L" if len(recipe.mean) == 1 else "RGB"
        self._image_bytes = len(recipe.mean) * recipe.input_size**2
        self._train = self._open(recipe, training=True)
        self._validation = self._open(recipe, training=False)
        self._loaders: dict[bool, tuple[DataLoader[Any], _Passes]] = {}
        train_classes, validation_classes = _classes(self._train), _classes(self._validation)
        if train_classes and validation_classes and train_classes != validation_classes:
            odd = sorted(set(train_classes) ^ set(validation_classes), key=str)
            raise UserError(
                f"The training set of {source.root} has {len(train_classes)} classes and its validation set "
                f"{len(validation_classes)}; {odd[0] if odd else 'their order'} is not in both: make them alike."
            )
        self.num_classes = len(train_classes) or recipe.num_classes

    def describe(self) -> dict[str, Any]:
        """Return the kind, the split names and the sizes; not the place, so that a data set may be moved."""
        return {
            "kind": self.source.dataset or "images",
            "train_split": self.source.train_split,
            "train_images": self._length(self._train),
            "validation_images": self._length(self._validation),
            "num_classes": self.num_classes,
        }

    def steps_per_epoch(self, recipe: Recipe) -> int:
        """Return the optimizer steps of an epoch."""
        if isinstance(self._train, IterableImageDataset) and recipe.repeated_augmentation > 1:
            raise UserError(
                "Repeated augmentation needs a data set with an order, and this one is a stream: unpack it into a "
                "folder, or say --set repeated_augmentation=1."
            )
        return epoch_steps(self._length(self._train), recipe)

    def training_batches(
        self, recipe: Recipe, plan: Plan, epoch: int, first_step: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's passes; a stream is read from the epoch's start and skipped up to ``first_step``."""
        if isinstance(self._train, IterableImageDataset):
            passes = _filled(map(received, self._stream(self._train, plan, epoch, training=True)), plan.device_batch)
            for _ in range(first_step * plan.accumulation):
                next(passes, None)
            yield from self._checked(self._not_ending(passes), plan, recipe, training=True)
        else:
            loader, sampler = self._indexed(plan, training=True)
            order = epoch_order(len(self._train), recipe, plan.seed, epoch)
            sampler.passes = _share_out(order, plan, epoch, first_step)
            yield from self._checked(iter(loader), plan, recipe, training=True)

    def validation_batches(self, recipe: Recipe, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's share of the validation set."""
        if isinstance(self._validation, IterableImageDataset):
            loader: Iterable[Any] = self._stream(self._validation, plan, 0, training=False)
        else:
            loader, sampler = self._indexed(plan, training=False)
            order = validation_order(len(self._validation), plan)
            sampler.passes = ([(index, 0, 0) for index in part.tolist()] for part in order.split(EVALUATION_BATCH))
        yield from self._checked(iter(loader), plan, recipe, training=False)

    def _open(self, recipe: Recipe, *, training: bool) -> Any:
        """Return timm's data set for a split, wrapped so that its draws follow from the seed."""
        source = self.source
        _check_packages(source.dataset)
        split = source.train_split if training else source.validation_split
        images = source.train_images if training else source.validation_images
        transform = make_transform(recipe, training=training)
        skip = training and self.skip_unreadable
        # TFDS decodes to 8 bits; of all others the pixels are brought to them here.
        mode = self._mode if source.dataset.startswith(("wds/", "tfds/")) else ""
        options: dict[str, Any] = {"input_img_mode": mode, "seed": recipe.seed, "batch_size": 1}
        if images:
            options["num_samples"] = images
        try:
            if not source.dataset:
                reader: Any = self._files(training=training)
            elif source.dataset.startswith("wds/"):
                shards = _shards(str(source.root), split, is_training=training, skip_unreadable=skip, **options)
                dataset: Any = IterableImageDataset(str(source.root), reader=shards)
            else:
                options |= {"root": str(source.root), "split": split, "is_training": training}
                dataset = create_dataset(source.dataset, search_split=False, **options)
        except UserError:
            raise
        except Exception as error:  # of the library that reads it, which has errors of its own (network, proxy)
            reason = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
            raise UserError(
                f"The split {split} of {source.dataset or source.root} cannot be opened "
                f"({type(error).__name__}: {reason}){_remedy(source.dataset)}."
            ) from None
        if source.dataset and isinstance(dataset, IterableImageDataset):
            dataset.transform = _StreamTransform(transform, self._mode)
            return dataset
        if source.dataset:
            reader = getattr(dataset, "reader")  # noqa: B009 (timm's annotation is the bare Dataset)
        if images:
            raise UserError(
                f"--{'train' if training else 'validation'}-images is the length of a stream that has none, and "
                f"{source.dataset or reader.root} has {len(reader)} images: leave it out."
            )
        return _Indexed(reader, transform, self._mode, recipe.seed, skip)

    def _files(self, *, training: bool) -> ImageFiles:
        """The class folders of a part; says what of them is not read."""
        files = ImageFiles(_part(self.source.root, TRAIN_NAMES if training else VALIDATION_NAMES))
        if training and len(files.class_to_idx) < 2:
            raise UserError(
                f"{files.root} has one class folder, {next(iter(files.class_to_idx))}; a classifier needs two or more: "
                "there may be a folder too many on the way to them."
            )
        if training and files.empty:
            raise UserError(
                f"The class folder {files.root / files.empty[0]} has no image"
                f"{f' (nor have {len(files.empty) - 1} more)' if len(files.empty) > 1 else ''}: fill it, or remove it "
                "here and from the validation set."
            )
        if files.left_out:
            _logger.warning("%s: %s", files.root, files.left_out)
        return files

    @staticmethod
    def _length(dataset: Any) -> int:
        return int(dataset.reader.num_samples) if isinstance(dataset, IterableImageDataset) else len(dataset)

    def _indexed(self, plan: Plan, *, training: bool) -> tuple[DataLoader[Any], _Passes]:
        """Return the loader of an indexed data set, whose workers live as long as the run."""
        if training not in self._loaders:
            dataset = self._train if training else self._validation
            dataset.seed, dataset.views = plan.seed, plan.views if training else 1
            sampler = _Passes()
            loader: DataLoader[Any] = DataLoader(
                dataset,
                batch_sampler=sampler,
                num_workers=self.workers,
                collate_fn=self._collation(plan, self.workers, training=training),
                pin_memory=plan.device.type == "cuda",
                persistent_workers=self.workers > 0,
            )
            self._loaders[training] = (loader, sampler)
        return self._loaders[training]

    def _stream(self, dataset: Any, plan: Plan, epoch: int, *, training: bool) -> DataLoader[Any]:
        """Return a loader with new workers for one epoch, so that nothing of an earlier epoch stays in them."""
        workers = self._stream_workers(dataset.reader, plan.world)
        dataset.transform.start(plan.seed, epoch, plan.rank, plan.views if training else 1)
        reader = dataset.reader  # made before the processes found each other, from the recipe's seed
        reader.common_seed, reader.dist_rank, reader.dist_num_replicas = plan.seed, plan.rank, plan.world
        if self.source.dataset.startswith("tfds/") and not training:
            reader._num_samples_per_worker = int  # none: timm fills shares up to it with copies of an image
        dataset.set_epoch(epoch)
        dataset.set_loader_cfg(num_workers=workers)
        return DataLoader(
            dataset,
            batch_size=plan.device_batch if training else EVALUATION_BATCH,
            num_workers=workers,
            collate_fn=self._collation(plan, workers, training=training),
            pin_memory=plan.device.type == "cuda",
            generator=generator(plan.seed, "workers", epoch, plan.rank),
        )

    def _collation(self, plan: Plan, workers: int, *, training: bool) -> Callable[[Any], Any]:
        images = plan.device_batch * plan.views if training else EVALUATION_BATCH
        return collation(_collate, workers, images * self._image_bytes, _logger.warning)

    def _stream_workers(self, reader: Any, world: int) -> int:
        """Return how many loader processes a stream has: one without a shard of its own would give nothing."""
        shards = self.workers
        if self.source.dataset.startswith("wds/"):
            shards = len(reader.split_info.filenames)
        elif self.source.dataset.startswith("hfids/"):
            shards = getattr(reader.builder.as_streaming_dataset(split=reader.split), "num_shards", self.workers)
        return max(1, min(self.workers, shards // world))

    def _not_ending(self, passes: Iterator[Any]) -> Iterator[Any]:
        """Yield a stream's passes, and say what is wrong where it ends too early."""
        yield from passes
        raise UserError(
            f"The stream {self.source.dataset} of {self.source.root} ended before the {self._length(self._train)} "
            "images that its split or --train-images states: correct the count, or start no more processes than it "
            "has shards."
        )

    def _read(self, passes: Iterator[Any]) -> Iterator[Any]:
        """Yield passes, and say in a sentence what a library that decodes by itself could not read."""
        try:
            yield from map(received, passes)
        except READ_ERRORS as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            where = self.source.dataset or self.source.root
            raise UserError(f"An image of {where} cannot be read ({reason}): repair or replace it.") from None

    def _checked(
        self, passes: Iterator[Any], plan: Plan, recipe: Recipe, *, training: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for content in self._read(passes):
            if isinstance(content, UnreadableImage):
                raise UserError(
                    f"The image {content.name} cannot be read ({content.reason}): repair or replace it, or leave out "
                    "such images in training with --skip-unreadable."
                )
            images, labels = content
            if training and int(labels.min()) < 0:
                raise UserError(
                    f"The data has the label {int(labels.min())}, as splits without labels do: name another split for "
                    "training with --train-split."
                )
            if int(labels.max()) >= recipe.num_classes:
                raise UserError(
                    f"The data has the label {int(labels.max())}, but the recipe is written for {recipe.num_classes} "
                    "classes, from 0: give the full data set, or say --set num_classes=N."
                )
            yield images.to(plan.device, non_blocking=True), labels.to(plan.device, non_blocking=True)


def make_transform(recipe: Recipe, *, training: bool) -> Callable[[Image.Image], np.ndarray[Any, Any]]:
    """Return timm's transform to uint8 (C, H, W); normalising and erasing are done on the device.

    Raises:
        UserError: timm does not know the recipe's policy of augmentation.
    """
    if not training:
        transform = create_transform(
            recipe.input_size,
            interpolation=recipe.evaluation_interpolation,
            crop_pct=recipe.evaluation_crop,
            use_prefetcher=True,
        )
        transform.transforms[-1] = _planes
        return transform
    try:
        transform = create_transform(
            recipe.input_size,
            is_training=True,
            no_aug=recipe.train_crop == "none",
            scale=recipe.crop_scale,  # type: ignore[arg-type]
            ratio=recipe.crop_ratio,  # type: ignore[arg-type]
            hflip=recipe.horizontal_flip,
            color_jitter=recipe.color_jitter,
            auto_augment=recipe.auto_augment or None,
            interpolation=recipe.interpolation,
            mean=recipe.mean,
            std=recipe.std,
            use_prefetcher=True,
        )
    except (AssertionError, KeyError, ValueError) as error:
        reason = f" ({error})" if str(error) else ""
        raise UserError(
            f"timm cannot make the auto_augment {recipe.auto_augment!r} of this recipe{reason}; write it as timm does, "
            "rand-m9-mstd0.5-inc1."
        ) from None
    if recipe.train_crop == "simple":
        if recipe.interpolation == "random":
            raise UserError("train_crop simple resizes by one interpolation: set interpolation to bicubic, say.")
        size, by = recipe.input_size, str_to_interp_mode(recipe.interpolation)
        crop = transforms.RandomCrop(size, padding=recipe.crop_padding or None, padding_mode="reflect")
        transform.transforms[:1] = [transforms.Resize(size, by), crop]
    for step in transform.transforms:
        _replace_posterize(step)
    transform.transforms[-1] = _planes
    return transform


def _planes(image: Image.Image) -> np.ndarray[Any, Any]:
    """Uint8 (C, H, W), in memory channel by channel, in half the time of timm's own last step."""
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return pixels[None]
    planes = np.empty((pixels.shape[2], *pixels.shape[:2]), np.uint8)
    cv2.split(pixels, list(planes))
    return planes


def _replace_posterize(step: Any) -> None:
    """Let timm's policies posterize to 0 bits, a black image, which newer versions of Pillow refuse to compute."""
    policies = [getattr(step, "ops", []), *getattr(step, "policy", [])]
    for operation in (operation for policy in policies for operation in policy):
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = _posterize


def _posterize(image: Image.Image, bits: int, **unused: Any) -> Image.Image:
    return auto_augment.posterize(image, bits) if bits > 0 else image.point(lambda value: 0)


class _Indexed(Dataset[Any]):
    """Images by (index, epoch, position); index -1 is padding."""

    def __init__(self, reader: Any, transform: Callable[..., Any], mode: str, seed: int, skip: bool) -> None:
        self.reader, self.transform, self.mode, self.seed, self.skip = reader, transform, mode, seed, skip
        self.views = 1

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[np.ndarray[Any, Any], int] | UnreadableImage:
        index, epoch, position = key
        for place in range(max(index, 0), max(index, 0) + len(self.reader)):
            try:
                file, label = self.reader[place % len(self.reader)]
                image = read_image(file, self.mode)
            except READ_ERRORS as error:
                file_name = self.reader.filename(place % len(self.reader), absolute=True)
                name = str(file_name or f"number {place % len(self.reader)} of the data set")
                if not self.skip:
                    return UnreadableImage(name, str(error))
                _logger.warning("%s cannot be read (%s); the next image takes its place", name, error)
                continue
            seed_global(self.seed, "sample", epoch, position)
            return _augmented(image, self.transform, self.views), -1 if index < 0 else label
        return UnreadableImage("every image", "none could be read")


class _StreamTransform:
    """A transform whose draws follow from the place of a sample in its worker's stream."""

    def __init__(self, transform: Callable[..., Any], mode: str) -> None:
        self.transform, self.mode = transform, mode
        self._seed = self._count = 0
        self._views = 1

    def start(self, seed: int, epoch: int, rank: int, views: int) -> None:
        """Begin an epoch."""
        self._seed, self._count, self._views = derive_seed(seed, "stream", epoch, rank), 0, views

    def __call__(self, image: Image.Image | UnreadableImage) -> Any:
        if isinstance(image, UnreadableImage):
            return image
        try:
            image = eight_bits(image, self.mode)
        except READ_ERRORS as error:
            return UnreadableImage(f"number {self._count} of the stream", str(error))
        worker = get_worker_info()
        seed_global(self._seed, "sample", 0 if worker is None else worker.id, self._count)
        self._count += 1
        return _augmented(image, self.transform, self._views)


def _augmented(image: Image.Image, transform: Callable[..., Any], views: int) -> Any:
    """Uint8 (C, H, W), or (views, C, H, W) of several views, each by its own draws."""
    return transform(image) if views == 1 else np.stack([transform(image) for _ in range(views)])


class _Passes(Sampler[list[tuple[int, int, int]]]):
    """Yields the passes that were set for an epoch, each a list of (index, epoch, position)."""

    def __init__(self) -> None:
        self.passes: Iterable[list[tuple[int, int, int]]] = ()

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        return iter(self.passes)


def _share_out(order: Tensor, plan: Plan, epoch: int, first_step: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yield this process's passes of an epoch."""
    positions = torch.arange(first_step * plan.total_batch + plan.rank, len(order), plan.world)
    for part in positions.split(plan.device_batch):
        indices = order[part].tolist()
        yield [(index, epoch, position) for index, position in zip(indices, part.tolist(), strict=True)]


def _filled(passes: Iterable[Any], size: int) -> Iterator[Any]:
    """Yield passes of ``size`` images; the incomplete ones with which loader processes end are put together."""
    rest: tuple[Tensor, Tensor] | None = None
    for content in passes:
        if isinstance(content, UnreadableImage) or (rest is None and len(content[1]) == size):
            yield content
            continue
        images, labels = content if rest is None else map(torch.cat, zip(rest, content, strict=True))
        if len(labels) >= size:
            yield images[:size], labels[:size]
            images, labels = images[size:], labels[size:]
        rest = (images, labels) if len(labels) else None


def _collate(samples: list[tuple[Any, int] | UnreadableImage]) -> tuple[Tensor, Tensor] | UnreadableImage:
    """Stack samples to uint8 (B, C, H, W), or (B, views, C, H, W), and int64 (B,)."""
    good = []
    for sample in samples:
        if isinstance(sample, UnreadableImage):
            return sample
        if isinstance(sample[0], UnreadableImage):  # of a stream
            return sample[0]
        good.append(sample)
    images = torch.from_numpy(np.stack([image for image, _ in good]))
    return images, torch.tensor([int(label) for _, label in good])


def _check_packages(dataset: str) -> None:
    """Raise a ``UserError`` where timm reads no such data set, or what reads it is not installed.

    timm takes a name with a prefix that it does not know for a folder. torchvision's data sets are held in memory as a
    whole, and not opened here.
    """
    prefix = dataset[: dataset.find("/") + 1] or dataset
    if dataset and prefix not in PACKAGES:
        hint = nearest(dataset, CLASSES) if prefix == "torch/" else nearest(prefix, PACKAGES)
        raise UserError(
            f"--dataset {dataset}: there is no such kind of data set.{hint} The names begin with "
            f"{', '.join(PACKAGES)}, or are {' and '.join(CLASSES)}; a folder or tar files need --data alone."
        )
    if dataset and dataset == prefix != "wds/":
        raise UserError(f"--dataset {dataset} names no data set; give {prefix.rstrip('/')}/NAME.")
    modules, install = PACKAGES.get(dataset[: dataset.find("/") + 1], ((), ""))
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise UserError(f"{dataset} is read by {' and '.join(missing)}, not installed here: pip install {install}.")


def _remedy(dataset: str) -> str:
    """What to do where a data set that a library downloads cannot be opened."""
    if not dataset.startswith(("hfds/", "hfids/", "tfds/")):
        return ""
    return ": check its name, the network and the proxy in the environment, or fetch it beforehand"


def _shards(root: str, split: str, **options: Any) -> Any:
    from common.training.shards import Shards  # here: importing it imports webdataset

    return Shards(root, split, **options)


def _part(root: Path, names: Sequence[str]) -> Path:
    """Return the folder or tar file of one part of a data set."""
    for name in names:
        for path in (root / name, root / f"{name}.tar"):
            if path.exists():
                return path
    raise UserError(
        f"{root} has neither a folder {names[0]} with a folder of images per class, as ImageNet has, nor a file "
        f"{names[0]}.tar."
    )


def _classes(dataset: Any) -> Mapping[Any, int]:
    """Return the mapping of class names to labels, where the data set has one."""
    for name in ("class_to_idx", "class_name_to_idx"):
        if getattr(dataset.reader, name, None):
            return dict(getattr(dataset.reader, name))
    return {}
