"""Write a stylised copy of an image folder: one's own Stylized set, from a folder of paintings."""

from __future__ import annotations

import argparse
import os
import random
import zlib
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from common.arguments import existing_file, existing_folder, output_folder, seed, whole_number
from common.data.folders import is_image
from common.data.rewriting import read_pixels, rewrite_folder
from common.devices import device
from common.errors import UserError
from papers.stylized_imagenet.style import StyleTransfer


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
        UserError: the crop does not fit, or there are no paintings; and what `common.data.rewriting` raises.
    """
    if crop < 8 or crop % 8:
        raise UserError(f"The crop must be a multiple of 8 pixels, as the encoder pools three times, not {crop}.")
    styles = sorted(path for path in paintings.rglob("*") if is_image(path.name))
    if not styles:
        raise UserError(f"There are no images in {paintings}; give a folder of pictures that styles are taken from.")
    where = next(transfer.parameters()).device

    def make(file: str, _: int) -> Tensor:
        draw = random.Random(zlib.crc32(os.fsencode(f"{seed}/{file}")))
        style = _squeezed(styles[draw.randrange(len(styles))], crop)
        content = TF.center_crop(TF.resize(read_pixels(source / file), [round(crop * 256 / 224)]), [crop, crop])
        with torch.inference_mode():
            restyled = transfer(*(image[None].to(where) / 255 for image in (content, style)))[0]
        return (255 * restyled).round().to(torch.uint8).cpu()

    return rewrite_folder(source, target, make, "stylising images")


def _squeezed(painting: Path, crop: int) -> Tensor:
    """The largest square of a painting, (3, crop, crop) uint8."""
    image = read_pixels(painting)
    return TF.resize(TF.center_crop(image, [min(image.shape[1:])] * 2), [crop, crop])


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
