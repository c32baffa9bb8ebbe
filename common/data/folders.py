"""The one reader of labelled images on disk: a folder per class, or a tar file of such folders.

The top folder is an image's class, and every image below it counts, however deep. Each top folder is a class, also one
without images, so that labels do not depend on which images are there. Hidden files and folders, and what operating
systems leave behind, are left out; so are files without an image's ending and images beside the class folders, which
are counted (`ImageFiles.left_out`). Links are followed.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from common.errors import UserError

#: Endings of the files that are taken for images, in small letters.
IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
#: Folders that operating systems and file servers leave behind.
LEFTOVERS = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
#: At most this many endings or folders are named.
_NAMED = 5


def is_image(name: str) -> bool:
    """Whether a file of that name is taken for an image."""
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in IMAGE_ENDINGS  # noqa: PTH122 (a million times)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is left out."""
    return name.startswith(".") or name in LEFTOVERS


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts numbers in names by their value, as timm does; names that differ in case only by their letters."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def visible_folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder`` that are not hidden, in natural order.

    Raises:
        UserError: it cannot be listed, or has a link that leads nowhere.
    """
    return sorted((entry.name for entry in _entries(str(folder)) if _leads_to_folder(entry)), key=natural_key)


def flat(folder: Path | str, images: int) -> UserError:
    """What is said of a folder or tar file with images, but without class folders."""
    return UserError(
        f"{folder} has {images} image{'s' * (images > 1)} and no class folders, as ImageNet's validation images come "
        f"out of their archive; expected {folder}/<class>/<image>: make a folder for each class, named as in train, "
        "and move each image into its own (for ImageNet, the script valprep.sh of "
        "github.com/soumith/imagenetloader.torch does it)."
    )


@dataclass
class Found:
    """What lies in class folders.

    Attributes:
        classes: names of the class folders, in natural order.
        files: path of each file relative to the root, with ``/``, and its class, in natural order.
        others: how many files have each ending that is not asked for.
        loose: files of the right endings beside the class folders.
    """

    classes: list[str] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    loose: int = 0


def scan(root: Path, endings: Collection[str] = IMAGE_ENDINGS, classes: Collection[str] | None = None) -> Found:
    """Look through the class folders in ``root``.

    Args:
        root: the folder.
        endings: of the files, in small letters.
        classes: only these folders; default: all.

    Raises:
        UserError: a folder cannot be listed, or a link leads nowhere.
    """
    found = Found()
    for entry in _entries(str(root)):
        if _leads_to_folder(entry):
            found.classes.append(entry.name)
        elif _ending(entry.name) in endings:
            found.loose += 1
    found.classes.sort(key=natural_key)
    for name in found.classes:
        if classes is not None and name not in classes:
            continue
        top = os.path.join(root, name)  # noqa: PTH118 (of a million files)
        for path in _below(top, name, (os.path.realpath(root), os.path.realpath(top))):
            ending = _ending(path)
            if ending in endings:
                found.files.append((path, name))
            else:
                found.others[ending] += 1
    found.files.sort(key=lambda file: natural_key(file[0]))
    return found


class ImageFiles:
    """Labelled images of class folders or of a tar file, in natural order; indexed like timm's readers.

    Args:
        root: the folder, or the tar file, whose class folders may be tar files themselves.
        classes: folder name to label; images in other folders are left out. Default: all folders, numbered from 0.

    Attributes:
        class_to_idx: folder name to label.

    Raises:
        UserError: there are no class folders, or no images in them, or something cannot be read.
    """

    def __init__(self, root: Path | str, classes: Mapping[str, int] | None = None) -> None:
        self.root = Path(root)
        self._places: dict[str, tuple[int, int]] = {}  # in a tar file: first byte and length
        if self.root.is_dir():
            self._found = scan(self.root, classes=classes)
        elif self.root.is_file() and self.root.suffix.lower() == ".tar":
            self._found, self._places = _scan_tar(self.root, classes)
        else:
            raise UserError(f"{self.root} is neither a folder nor a .tar file; unpack it.")
        names = self._found.classes
        if not names and self._found.loose:
            raise flat(self.root, self._found.loose)
        self.class_to_idx = {name: label for label, name in enumerate(names)} if classes is None else dict(classes)
        self._files = [(path, self.class_to_idx[name]) for path, name in self._found.files if name in self.class_to_idx]
        if not self._files:
            others = f", but {self.left_out}" if self.left_out else ""
            raise UserError(f"{self.root} has no images in the class folders{others}.")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[str | io.BytesIO, int]:
        """Path or content, and label."""
        path, label = self._files[index]
        if self.root.is_dir():
            return os.path.join(self.root, path), label  # noqa: PTH118
        if path not in self._places:
            raise OSError("it is a link to a file that the tar file does not hold")
        start, length = self._places[path]
        with self.root.open("rb") as file:
            file.seek(start)
            return io.BytesIO(file.read(length)), label

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """Where an image is: below the root, or its name alone, or the whole path."""
        path = self._files[index][0]
        if basename:
            return path.rpartition("/")[2]
        return str(self.root / path) if absolute else path

    @property
    def empty(self) -> list[str]:
        """Names of the classes without images."""
        filled = {label for _, label in self._files}
        return [name for name in self._found.classes if self.class_to_idx.get(name, -1) not in {-1, *filled}]

    @property
    def left_out(self) -> str:
        """What is not read, in words; empty where there is nothing."""
        return _in_words(self._found, self.empty)


def left_out(found: Found) -> str:
    """What is not read, in words; empty where there is nothing."""
    filled = {name for _, name in found.files}
    return _in_words(found, [name for name in found.classes if name not in filled])


def _in_words(found: Found, empty: list[str]) -> str:
    parts = []
    if count := sum(found.others.values()):
        endings = [ending or "none" for ending, _ in found.others.most_common(_NAMED)]
        more = ", ..." if len(found.others) > _NAMED else ""
        are, verb = ("file is", "is") if count == 1 else ("files are", "are")
        parts.append(f"{count} {are} no image by the ending ({', '.join(endings)}{more}) and {verb} left out")
    if found.loose:
        are, verb = ("image lies", "is") if found.loose == 1 else ("images lie", "are")
        parts.append(f"{found.loose} {are} beside the class folders and {verb} left out")
    if empty:
        shown = ", ".join(empty[:_NAMED]) + (f" and {len(empty) - _NAMED} more" if len(empty) > _NAMED else "")
        parts.append(f"no image is in the class folder{'s' * (len(empty) > 1)} {shown}")
    return "; ".join(parts)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be listed ({error.strerror}): make it readable.") from None


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    if entry.is_dir():
        return True
    if entry.is_symlink() and not _ending(entry.name) and not os.path.exists(entry.path):  # noqa: PTH110
        raise UserError(f"The link {entry.path} leads nowhere: restore what it names, or remove it.")
    return False


def _below(folder: str, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
    """Files below ``folder``, with ``prefix`` in its place; ``above`` are the real folders on the way, it last."""
    for entry in _entries(folder):
        path = f"{prefix}/{entry.name}"
        if not _leads_to_folder(entry):
            if entry.is_file() or entry.is_symlink():  # no pipes; a link to nothing is an image that cannot be read
                yield path
            continue
        real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}/{entry.name}"
        if real not in above:  # a link back would go round for ever
            yield from _below(entry.path, path, (*above, real))


def _scan_tar(root: Path, wanted: Collection[str] | None) -> tuple[Found, dict[str, tuple[int, int]]]:
    """What a tar file holds, and where in it."""
    folders: set[tuple[str, ...]] = set()
    files: dict[tuple[str, ...], tuple[int, int]] = {}
    links: dict[tuple[str, ...], tuple[str, ...]] = {}
    try:
        with tarfile.open(root, "r:") as archive:
            _list_tar(archive, (), 0, folders, files, links)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"The tar file {root} cannot be read ({error}): get it again, or unpack it.") from None
    for place, target in links.items():
        if target in files:
            files[place] = files[target]
    places = [place for place in {**files, **links} if not any(map(is_hidden, place))]
    found = Found()
    # Folders above the class folders, as archives have that were packed from outside.
    above = 0
    while _only_folder(places, above) and not (wanted and places[0][above] in wanted):
        above += 1
    names = {place[above] for place in places if len(place) > above + 1}
    names |= {place[above] for place in folders if len(place) == above + 1 and not any(map(is_hidden, place))}
    found.classes = sorted(names, key=natural_key)
    for place in places:
        image = _ending(place[-1]) in IMAGE_ENDINGS
        if len(place) <= above + 1:
            found.loose += image
        elif image:
            found.files.append(("/".join(place), place[above]))
        else:
            found.others[_ending(place[-1])] += 1
    found.files.sort(key=lambda file: natural_key(file[0]))
    return found, {"/".join(place): where for place, where in files.items()}


def _only_folder(places: list[tuple[str, ...]], above: int) -> bool:
    """Whether all images lie in folders of one and the same folder."""
    images = [place for place in places if _ending(place[-1]) in IMAGE_ENDINGS]
    return bool(images) and all(len(i) > above + 2 for i in images) and len({i[above] for i in images}) == 1


def _list_tar(
    archive: tarfile.TarFile,
    above: tuple[str, ...],
    start: int,
    folders: set[tuple[str, ...]],
    files: dict[tuple[str, ...], tuple[int, int]],
    links: dict[tuple[str, ...], tuple[str, ...]],
) -> None:
    """Add the members of a tar file, which begins at byte ``start`` of the outermost; tar files in it are folders."""
    for member in archive:
        place = (*above, *_parts(member.name.split("/")))
        if member.isdir():
            folders.add(place)
        elif member.islnk():
            links[place] = (*above, *_parts(member.linkname.split("/")))
        elif member.issym():
            links[place] = (*above, *_parts([*member.name.split("/")[:-1], *member.linkname.split("/")]))
        elif member.isfile() and _ending(member.name) == ".tar" and not any(map(is_hidden, place)):
            inner = archive.extractfile(member)
            assert inner is not None
            inside = (*place[:-1], PurePosixPath(place[-1]).stem)
            folders.add(inside)
            with tarfile.open(fileobj=inner, mode="r:") as opened:
                _list_tar(opened, inside, start + member.offset_data, folders, files, links)
        elif member.isfile():
            files[place] = (start + member.offset_data, member.size)


def _parts(names: Iterable[str]) -> list[str]:
    """A path's parts without ``.`` and with ``..`` taken back."""
    parts: list[str] = []
    for name in names:
        if name == "..":
            del parts[-1:]
        elif name not in ("", "."):
            parts.append(name)
    return parts
