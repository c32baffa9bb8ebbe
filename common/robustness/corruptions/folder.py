"""Write a corrupted copy of an image folder, laid out as ImageNet-C is distributed."""

from __future__ import annotations

import argparse
import io
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from common.arguments import existing_folder, output_folder, seed, whole_number
from common.data.folders import Found, flat, left_out, scan
from common.data.pixels import READ_ERRORS, read_image
from common.errors import UserError
from common.files import write_atomic
from common.locks import held
from common.progress import console, track

from .engine import SMALLEST_SIDE, STORED_QUALITY, corrupt
from .frost_textures import read_pictures
from .parameters import CORRUPTIONS, EXTRA, SEVERITIES, check_name, parameters_for

#: Images that are read, corrupted and written together.
BATCH = 32
#: The largest crop that can be asked for, as a recipe's input size.
LARGEST_SIDE = 8192
#: At most this many unreadable images are named.
NAMED = 5


def corrupt_folder(
    source: Path | str,
    target: Path | str,
    names: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    *,
    crop: int | None = 224,
    seed: int = 0,
    frost_photos: Path | str | None = None,
) -> int:
    """Write ``target/<name>/<severity>/<class>/<file>`` for every image ``source/<class>/<file>``.

    As for ImageNet-C, images are resized to 256/224 of the crop along the shorter side, cropped in the centre,
    corrupted, and stored as JPEG of quality 85; an image of another format takes the ending ``.JPEG``, in place of its
    own, or after it where images differ in their endings alone. Files that are there are kept, so an interrupted
    run goes on where it stopped; what an image gets depends on ``seed`` and its path in the source, not on the other
    images.

    Args:
        source: folder with a folder per class.
        target: where to write; made if missing, not inside ``source``.
        names: corruptions.
        severities: from 1 to 5.
        crop: side of the written images in pixels; None keeps each image's size.
        seed: chooses the random draws.
        frost_photos: folder with the original's frost pictures, see ``corrupt``.

    Returns:
        Number of files written.

    Raises:
        UserError: the source has no images, two images would get one name, or the target cannot be written. If images
            cannot be read or are too small, all others are written first, then the error names them.
    """
    source, target = Path(source), Path(target)
    for name in names:
        for severity in severities:
            parameters_for(check_name(name), severity, "imagenet")
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"The target {target} lies inside the source {source}; choose a folder outside it.")
    if crop is not None and crop < SMALLEST_SIDE:
        raise UserError(f"A crop of {crop} pixels is too small; give at least {SMALLEST_SIDE}, or 0 to keep the sizes.")
    if frost_photos is not None:
        read_pictures(str(frost_photos))  # what is wrong with them shows now
    found = find_images(source)
    files = [Path(path) for path, _ in found.files]
    stored = _stored_names(source, files)
    if unread := left_out(found):
        console.print(f"{source}: {unread}.", soft_wrap=True)
    cells = [(name, severity) for name in names for severity in severities]
    _make_class_folders(target, cells, found.classes)
    unreadable: list[str] = []
    written = 0
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    with held(target), ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in track(batches, f"corrupting {len(files)} images, {len(cells)} cells, {BATCH} images a step"):
            missing = {
                cell: [file for file in batch if not _place(target, *cell, stored[file]).exists()] for cell in cells
            }
            needed = [file for file in batch if any(file in left for left in missing.values())]
            loaded = dict(zip(needed, pool.map(lambda file: _read(source / file, crop), needed), strict=True))
            unreadable += [str(file) for file, image in loaded.items() if image is None]
            for (name, severity), left in missing.items():
                readable = [(file, image) for file in left if (image := loaded[file]) is not None]
                for group in _same_size(readable):
                    images = torch.stack([image for _, image in group])
                    seeds = [zlib.crc32(os.fsencode(f"{seed}/{file.as_posix()}")) for file, _ in group]
                    results = corrupt(images, name, severity, seeds=seeds, frost_photos=frost_photos)
                    places = [_place(target, name, severity, stored[file]) for file, _ in group]
                    written += sum(pool.map(_write, places, results))
    if unreadable:
        more = f" and {len(unreadable) - NAMED} more" if len(unreadable) > NAMED else ""
        those = ", ".join(unreadable[:NAMED]) + more
        raise UserError(
            f"{len(unreadable)} of {len(files)} images in {source} cannot be read or have fewer than {SMALLEST_SIDE} "
            f"pixels a side: {those}; "
            "all others are written, so replace or remove these and run the same command again."
        )
    return written


def find_images(source: Path) -> Found:
    """The images in the class folders of ``source``.

    Raises:
        UserError: no folder, or no images in class folders.
    """
    if not source.is_dir():
        raise UserError(f"There is no folder {source}; give one with a folder of images per class.")
    found = scan(source)
    if found.loose and not found.classes:
        raise flat(source, found.loose)
    if not found.files:
        raise UserError(f"No images are in the folders of {source}; expected {source}/<class>/<image>.jpg.")
    return found


def _stored_names(source: Path, files: Sequence[Path]) -> dict[Path, Path]:
    """Under which name each image is stored.

    Raises:
        UserError: two of them would have one.
    """
    short = Counter(file if _is_jpeg(file) else file.with_suffix(".JPEG") for file in files)
    names: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for file in files:
        name = file
        if not _is_jpeg(file):
            name = file.with_suffix(".JPEG")
            name = name if short[name] == 1 else file.with_name(f"{file.name}.JPEG")
        other = taken.setdefault(name, file)
        if other != file:
            raise UserError(f"{source / other} and {source / file} would be stored under one name; rename one of them.")
        names[file] = name
    return names


def _make_class_folders(target: Path, cells: Sequence[tuple[str, int]], classes: Sequence[str]) -> None:
    """Let each cell have all classes, also those without images, so that labels stay what they are."""
    for name, severity in cells:
        for folder in classes:
            place = target / name / str(severity) / folder
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{place} cannot be made ({error.strerror}); choose another target.") from None


def _is_jpeg(file: Path) -> bool:
    return file.suffix.lower() in (".jpg", ".jpeg")


def _place(target: Path, name: str, severity: int, stored: Path) -> Path:
    return target / name / str(severity) / stored


def _read(path: Path, crop: int | None) -> Tensor | None:
    """Uint8 ``(3, H, W)``, or None for a file that is no whole image or too small a one."""
    try:
        image = read_image(path)
    except READ_ERRORS:
        return None
    if crop is not None:
        image = TF.center_crop(TF.resize(image, [round(crop * 256 / 224)]), [crop, crop])
    return TF.pil_to_tensor(image) if min(image.size) >= SMALLEST_SIDE else None


def _same_size(images: list[tuple[Path, Tensor]]) -> Iterator[list[tuple[Path, Tensor]]]:
    def size(item: tuple[Path, Tensor]) -> tuple[int, ...]:
        return tuple(item[1].shape)

    for _, group in groupby(sorted(images, key=size), key=size):
        yield list(group)


def _write(path: Path, image: Tensor) -> int:
    buffer = io.BytesIO()
    TF.to_pil_image(image).save(buffer, "JPEG", quality=STORED_QUALITY, optimize=True)
    try:
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); what is written stays, run again to go on."
        ) from error
    return 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command that writes a corrupted copy of an image folder."""
    parser.add_argument("source", type=existing_folder, help="folder of images, a folder per class")
    parser.add_argument("target", type=output_folder, help="where to write <corruption>/<severity>/<class>/<image>")
    parser.add_argument(
        "--corruptions",
        nargs="+",
        metavar="NAME",
        default=list(CORRUPTIONS),
        help=f"which (default: the 15 of ImageNet-C); also {', '.join(EXTRA)}",
    )
    parser.add_argument(
        "--severities",
        nargs="+",
        type=whole_number(1, 5),
        metavar="N",
        default=list(SEVERITIES),
        help="from 1 to 5 (default: all)",
    )
    parser.add_argument(
        "--crop",
        type=whole_number(0, LARGEST_SIDE),
        default=224,
        help="side of the images in pixels, 0 keeps theirs (default 224)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="chooses the random draws (default 0)")
    parser.add_argument(
        "--frost-photos", type=existing_folder, help="folder with frost1.png to frost5.jpg of the ImageNet-C scripts"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    written = corrupt_folder(
        arguments.source,
        arguments.target,
        arguments.corruptions,
        arguments.severities,
        crop=arguments.crop or None,
        seed=arguments.seed,
        frost_photos=arguments.frost_photos,
    )
    print(f"{written} images written to {arguments.target}.")
    return 0
