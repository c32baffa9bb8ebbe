"""Write a distorted copy of an image folder, by DeepAugment with released weights."""

from __future__ import annotations

import argparse
import os
import zlib
from pathlib import Path

from torch import Tensor

from common.arguments import existing_file, existing_folder, output_folder, seed
from common.checkpoints import read, unwrap
from common.data.rewriting import read_pixels, rewrite_folder
from common.errors import UserError
from papers.imagenet_r.draws import Draws
from papers.imagenet_r.method import IMAGES_A_DRAW, SIDES, DeepAugment


def load(kind: str, weights: Path) -> DeepAugment:
    """DeepAugment with released weights: ``edsr_baseline_x4.pt`` or ``model_final.state``.

    Raises:
        UserError: the file cannot be read, or has the weights of something else.
    """
    try:
        return DeepAugment(kind, unwrap(read(weights)))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UserError(f"{weights} has not the weights of {kind}: {reason}") from None


def deepaugment_folder(source: Path, target: Path, augment: DeepAugment, *, seed: int = 0) -> int:
    """Write ``target/<class>/<name>.png`` for every image ``source/<class>/<name>.*``.

    What an image gets depends on ``seed``, its path and its number; weights change after every `IMAGES_A_DRAW` images.

    Returns:
        Number of files written.

    Raises:
        UserError: what `common.data.rewriting` raises.
    """
    current = -1

    def make(file: str, number: int) -> Tensor:
        nonlocal current
        image = read_pixels(source / file)
        if number // IMAGES_A_DRAW != current:
            current = number // IMAGES_A_DRAW
            augment.renew(Draws(zlib.crc32(f"{seed}/{current}".encode())))
        return augment(image, Draws(zlib.crc32(os.fsencode(f"{seed}/{file}"))))

    return rewrite_folder(source, target, make, f"distorting images by {augment.kind}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("source", type=existing_folder, help="folder of images, a folder per class")
    parser.add_argument("target", type=output_folder, help="where to write <class>/<image>.png")
    parser.add_argument("--network", choices=sorted(SIDES), required=True, help="super-resolution or autoencoder")
    parser.add_argument("--weights", type=existing_file, required=True, help="its released weights")
    parser.add_argument("--seed", type=seed, default=0, help="of all draws (default 0)")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    augment = load(arguments.network, arguments.weights)
    written = deepaugment_folder(arguments.source, arguments.target, augment, seed=arguments.seed)
    print(f"{written} images written to {arguments.target}.")
    return 0
