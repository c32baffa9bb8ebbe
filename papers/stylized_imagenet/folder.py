"""Write a stylised copy of an image folder: one's own Stylized set, from a folder of paintings."""

from __future__ import annotations

import argparse
import os
import random
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from common.arguments import existing_file, existing_folder, output_folder, seed, whole_number
from common.data.folders import Found, flat, is_image, left_out, scan
from common.data.pixels import READ_ERRORS, read_image
from common.devices import device
from common.errors import UserError
from common.files import write_atomic
from common.locks import held
from common.progress import console, track
from papers.stylized_imagenet.style import StyleTransfer

#: At most this many unreadable images are named.
NAMED = 5


def stylise_folder(
    source: Path, target: Path, paintings: Path, transfer: StyleTransfer, *, crop: int = 224, seed: int = 0
) -> int:
    """Write ``target/<class>/<name>.png`` for every image ``source/<class>/<name>.*``.

    As for Stylized-ImageNet, images are resized to 256/224 of the crop along the shorter side and cropped in the
    centre; paintings are cropped to their largest square. Which painting an image gets depends on ``seed`` and its path
    alone. Files that are there are kept, so that an interrupted run goes on where it stopped.

    Args:
        source: folder with a folder a class.
        target: where to write, not inside ``source``.
        paintings: folder of pictures, in folders or not.
        transfer: on any device.
        crop: side of the written images in pixels, a multiple of 8.
        seed: of the choice of paintings.

    Returns:
        Number of files written.

    Raises:
        UserError: there are no images or paintings, or the target cannot be written; of images and paintings that
            cannot be read, after all others are written.
    """
    if crop < 8 or crop % 8:
        raise UserError(f"The crop must be a multiple of 8 pixels, as the encoder pools three times, not {crop}.")
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"The target {target} lies inside the source {source}; choose a folder outside it.")
    files, styles = _images(source, by_class=True), _images(paintings, by_class=False)
    where = next(transfer.parameters()).device
    unreadable: list[str] = []
    written = 0
    with held(target):
        for file in track(files, f"stylising {len(files)} images"):
            place = target / Path(file).with_suffix(".png")
            if place.exists():
                continue
            draw = random.Random(zlib.crc32(os.fsencode(f"{seed}/{Path(file).as_posix()}")))
            painting = paintings / styles[draw.randrange(len(styles))]
            content, style = _read(source / file, crop, square=False), _read(painting, crop, square=True)
            for path, picture in ((source / file, content), (painting, style)):
                if picture is None:
                    unreadable.append(str(path))
            if content is None or style is None:
                continue
            with torch.inference_mode():
                restyled = transfer(content[None].to(where), style[None].to(where))[0].cpu()
            _write(place, restyled)
            written += 1
    if unreadable:
        names = sorted(set(unreadable))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise UserError(
            f"{len(names)} pictures cannot be read: {', '.join(names[:NAMED])}{more}; all others are written, so "
            "replace or remove these and run the same command again."
        )
    return written


def _images(folder: Path, *, by_class: bool) -> Sequence[str]:
    """Paths of images below a folder, sorted.

    Raises:
        UserError: there are none, or none in class folders where there should be; or two that would get one name.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    if by_class:
        found: Found = scan(folder)
        if found.loose and not found.classes:
            raise flat(folder, found.loose)
        if unread := left_out(found):
            console.print(f"{folder}: {unread}.", soft_wrap=True)
        files = sorted(path for path, _ in found.files)
        seen: dict[Path, str] = {}
        for file in files:
            other = seen.setdefault(Path(file).with_suffix(""), file)
            if other != file:
                raise UserError(f"{folder / other} and {folder / file} would be stored under one name; rename one.")
    else:
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if is_image(path.name))
    if not files:
        raise UserError(f"There are no images in {folder}{' in a folder a class' if by_class else ''}.")
    return files


def _read(path: Path, crop: int, *, square: bool) -> Tensor | None:
    """(3, crop, crop) in [0, 1]; None for a file that is no whole image."""
    try:
        image = read_image(path)
    except READ_ERRORS:
        return None
    if square:
        image = TF.center_crop(image, [min(image.size)] * 2)
    image = TF.resize(image, [crop if square else round(crop * 256 / 224)])
    return TF.to_dtype(TF.pil_to_tensor(TF.center_crop(image, [crop, crop])), torch.float32, scale=True)


def _write(path: Path, image: Tensor) -> None:
    try:
        write_atomic(path, lambda handle: TF.to_pil_image(image).save(handle, "PNG"))
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); what is written stays, run again to go on."
        ) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("source", type=existing_folder, help="folder of images, a folder per class")
    parser.add_argument("target", type=output_folder, help="where to write <class>/<image>.png")
    parser.add_argument("--paintings", type=existing_folder, required=True, help="folder of pictures that give styles")
    parser.add_argument("--encoder", type=existing_file, required=True, help="vgg_normalised.pth of pytorch-AdaIN")
    parser.add_argument("--decoder", type=existing_file, required=True, help="decoder.pth of pytorch-AdaIN")
    parser.add_argument("--crop", type=whole_number(8), default=224, help="side of the images in pixels (default 224)")
    parser.add_argument("--seed", type=seed, default=0, help="chooses the paintings (default 0)")
    parser.add_argument("--device", default="auto", help="torch device; auto takes CUDA where there is one (default)")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    transfer = StyleTransfer(arguments.encoder, arguments.decoder).to(device(arguments.device))
    written = stylise_folder(
        arguments.source, arguments.target, arguments.paintings, transfer, crop=arguments.crop, seed=arguments.seed
    )
    print(f"{written} images written to {arguments.target}.")
    return 0
