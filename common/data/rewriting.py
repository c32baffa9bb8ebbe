"""Write a changed copy of an image folder: each image once, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from common.data.folders import flat, left_out, scan
from common.data.pixels import READ_ERRORS, read_image
from common.errors import UserError
from common.files import write_atomic
from common.locks import held
from common.progress import console, track

#: At most this many unreadable images are named.
NAMED = 5


class UnreadableError(Exception):
    """A picture cannot be read; ``str`` is its path."""


def read_pixels(path: Path) -> Tensor:
    """The picture in a file, uint8 (3, H, W).

    Raises:
        UnreadableError: it holds no whole picture.
    """
    try:
        return TF.pil_to_tensor(read_image(path))
    except READ_ERRORS:
        raise UnreadableError(str(path)) from None


def rewrite_folder(source: Path, target: Path, make: Callable[[str, int], Tensor], description: str) -> int:
    """Write ``target/<class>/<name>.png`` for every image ``source/<class>/<name>.*`` that is not there yet.

    Args:
        source: folder with a folder a class.
        target: where to write, not inside ``source``.
        make: from an image's path below ``source`` and its number among all (in order of their paths) to what is
            written, uint8 (3, H, W). It must depend on nothing else, so that an interrupted run ends as any other.
        description: for the progress bar.

    Returns:
        Number of files written.

    Raises:
        UserError: there are no images, two would get one name, or the target cannot be written; of pictures that cannot
            be read, after all others are written.
    """
    files = _files(source)
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"The target {target} lies inside the source {source}; choose a folder outside it.")
    unreadable: list[str] = []
    written = 0
    with held(target):
        for number, file in enumerate(track(files, description)):
            place = target / Path(file).with_suffix(".png")
            if place.exists():
                continue
            try:
                image = make(file, number)
            except UnreadableError as error:
                unreadable.append(str(error))
                continue
            _write(place, image)
            written += 1
    if unreadable:
        names = sorted(set(unreadable))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise UserError(
            f"Pictures that cannot be read: {', '.join(names[:NAMED])}{more}; all others are written, so replace or "
            "remove these and run the same command again."
        )
    return written


def _files(source: Path) -> list[str]:
    if not source.is_dir():
        raise UserError(f"There is no folder {source}; give one with a folder of images per class.")
    found = scan(source)
    if found.loose and not found.classes:
        raise flat(source, found.loose)
    if not found.files:
        raise UserError(f"There are no images in the folders of {source}; expected {source}/<class>/<image>.jpg.")
    if unread := left_out(found):
        console.print(f"{source}: {unread}.", soft_wrap=True)
    files = sorted(path for path, _ in found.files)
    seen: dict[Path, str] = {}
    for file in files:
        other = seen.setdefault(Path(file).with_suffix(""), file)
        if other != file:
            raise UserError(f"{source / other} and {source / file} would be stored under one name; rename one.")
    return files


def _write(path: Path, image: Tensor) -> None:
    try:
        write_atomic(path, lambda handle: TF.to_pil_image(image).save(handle, "PNG"))
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); what is written stays, run again to go on."
        ) from error
