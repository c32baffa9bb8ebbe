"""Fashion-MNIST, the embedded data set: found, fetched, verified, loaded.

Han Xiao, Kashif Rasul, Roland Vollgraf: "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms", arXiv 1708.07747; MIT licence; 60,000 + 10,000 photographs of garments, 28 x 28, 10 classes.

Sources, in this order: the data folder; Debian's package ``dataset-fashion-mnist`` where it is installed;
torchvision's download; Debian's archive, unpacked without root. Whatever the source, the decompressed files must
have the SHA-256 sums below, and are then kept in the data folder, so that the next call reads from there.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import math
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from common.files import write_atomic
from common.progress import console

#: SHA-256 of the decompressed files, measured on Debian's package 0.0~git20200523.55506a9-1. The authors' own archives
#: hold the same bytes: Debian's .gz files with the header's name and time put back (1504176606 for train, 1504176627
#: for t10k, in seconds since 1970) have the MD5 sums that torchvision pins.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

#: Mean and standard deviation of the 60,000 training images in [0, 1].
MEAN, STD = 0.2860, 0.3530

PACKAGE = "dataset-fashion-mnist"

#: Where Debian's package puts its files, for systems without ``dpkg``.
INSTALLED = Path("/usr/share/datasets/fashion-mnist")

#: Seconds without an answer after which torchvision's server counts as not reachable.
PATIENCE = 5.0


@dataclass(frozen=True, eq=False)
class FashionMNIST:
    """The whole data set in memory (55 MB of images, 0.6 MB of labels).

    Attributes:
        train_images: (60000, 28, 28) uint8, 0 is background.
        train_labels: (60000,) int64, index into ``CLASSES``.
        test_images: (10000, 28, 28) uint8.
        test_labels: (10000,) int64.
        source: where the files came from, for the provenance of a run.
        checksums: SHA-256 of each decompressed file, as verified.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    source: str
    checksums: dict[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the 10 classes, in the order of the labels."""
        return CLASSES


@dataclass(frozen=True)
class Found:
    """What is on this machine, without any download.

    Attributes:
        folder: where all four files are, verified; None where they are not.
        sentence: the finding in words, with the remedy where there is none.
    """

    folder: Path | None
    sentence: str


class NotHereError(Exception):
    """One source does not have the data; the text says why, in a clause."""


class DamagedError(NotHereError):
    """One source has the data, but not with the bytes that it should have."""


def data_folder() -> Path:
    """Return where data is kept: the environment variable ``RESIGHT_DATA``, or ``data/`` in the checkout."""
    named = os.environ.get("RESIGHT_DATA")
    return Path(named).expanduser() if named else Path(__file__).resolve().parents[2] / "data"


def load_fashion_mnist(folder: Path | None = None) -> FashionMNIST:
    """Load Fashion-MNIST, fetching it first if this machine does not have it.

    Args:
        folder: data folder; default `data_folder()`. Read from (the files themselves or ``.gz``; directly in it, in
            ``fashion-mnist/`` or in torchvision's ``FashionMNIST/raw/``) and, after a fetch, written to. Processes
            may call this at the same time.

    Raises:
        UserError: no source has it; the sentence says what was tried and what to do.
    """
    folder = Path(folder) if folder is not None else data_folder()
    refusals = []
    for route in (_from_data_folder, _from_debian_package, _from_torchvision, _from_debian_archive):
        try:
            files, source = route(folder)
        except NotHereError as refusal:
            refusals.append(str(refusal))
            if route is not _from_data_folder or isinstance(refusal, DamagedError):
                _say(f"Fashion-MNIST: {refusal}")
            continue
        if route is not _from_data_folder:
            _keep(files, folder)
        return _parse(files, source)
    raise UserError(
        f"Fashion-MNIST is missing: put its four files ({', '.join(SHA256)}, as they are or as .gz) into"
        f" {folder / 'fashion-mnist'}, or install Debian's package {PACKAGE}, or connect to the network"
        f" (tried: {'; '.join(refusals)})."
    )


def find_fashion_mnist(folder: Path | None = None) -> Found:
    """Say where Fashion-MNIST is on this machine, or what is missing; downloads and writes nothing."""
    folder = Path(folder) if folder is not None else data_folder()
    damaged = []
    for place in (*_places(folder), *_installed_places()):
        try:
            _read_folder(place)
        except DamagedError as refusal:
            damaged.append(f"{refusal}; ")
        except NotHereError:
            pass
        else:
            return Found(place, f"Fashion-MNIST is in {place}; the check sums are right.")
    return Found(
        None,
        f"Fashion-MNIST is neither in {folder} nor installed as Debian's package {PACKAGE}; {''.join(damaged)}"
        "it is fetched on first use.",
    )


# The four sources. Each returns the verified content of the four files and the source in words, or raises NotHereError.

Files = dict[str, bytearray]


def _from_data_folder(folder: Path) -> tuple[Files, str]:
    damaged = []
    for place in _places(folder):
        try:
            files, compressed = _read_folder(place)
        except DamagedError as refusal:
            damaged.append(str(refusal))
        except NotHereError:
            pass
        else:
            if compressed:
                _keep(files, folder)
            return files, str(place)
    if damaged:
        raise DamagedError("; ".join(damaged))
    raise NotHereError(f"it is not in {folder}")


def _from_debian_package(folder: Path) -> tuple[Files, str]:
    for place in _installed_places():
        if place.is_dir():
            return _read_folder(place)[0], f"Debian package {PACKAGE}, installed in {place}"
    raise NotHereError(f"Debian's package {PACKAGE} is not installed")


def _from_torchvision(folder: Path) -> tuple[Files, str]:
    from torchvision.datasets import FashionMNIST as Downloader  # takes a second to import, needed only here

    url = Downloader.mirrors[0]
    _check_reachable(url)
    _say(f"Fashion-MNIST: downloading from {url} through torchvision")
    bars = contextlib.nullcontext() if console.is_terminal else contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as temporary, _socket_timeout(4 * PATIENCE), bars:
        try:
            Downloader(temporary, train=False, download=True)
        except (OSError, RuntimeError) as error:
            raise NotHereError(f"torchvision's download failed ({_one_line(error)})") from error
        return _read_folder(Path(temporary, "FashionMNIST", "raw"))[0], f"{url} through torchvision"


def _from_debian_archive(folder: Path) -> tuple[Files, str]:
    """``apt-get download`` and ``dpkg -x`` in a temporary folder: needs neither root nor the package's installation.

    Where the system has no package lists (usual in containers), they are fetched into the temporary folder first.
    """
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise NotHereError(f"Debian's archive needs {tool}, which is not installed")
    _say(f"Fashion-MNIST: fetching Debian's package {PACKAGE} (31 MB), without installing it")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        try:
            _apt(work, "download", PACKAGE)
        except NotHereError:
            private = _private_apt(work)
            # One unreachable third-party list must not spoil the rest: the download that follows decides.
            with contextlib.suppress(NotHereError):
                _apt(work, *private, "update")
            _apt(work, *private, "download", PACKAGE)
        archives = list(work.glob(f"{PACKAGE}_*.deb"))
        if not archives:
            raise NotHereError("Debian's archive was not downloaded")
        _command(["dpkg", "-x", str(archives[0]), str(work / "unpacked")], work)
        place = work / "unpacked" / INSTALLED.relative_to("/")
        return _read_folder(place)[0], f"Debian archive, {archives[0].name}"


def _private_apt(work: Path) -> tuple[str, ...]:
    """Options that keep apt's lists and caches below ``work``, and the system's sources and keys in use."""
    for part in ("state/lists/partial", "cache/archives/partial"):
        (work / part).mkdir(parents=True)
    return (
        *("-o", f"Dir::State={work / 'state'}"),
        *("-o", f"Dir::State::lists={work / 'state/lists'}"),
        *("-o", "Dir::State::status=/var/lib/dpkg/status"),
        *("-o", f"Dir::Cache={work / 'cache'}"),
        *("-o", "Acquire::Languages=none"),
        *("-o", "APT::Sandbox::User=root"),  # as root, apt's own user could not write below a private folder
    )


def _apt(work: Path, *arguments: str) -> None:
    limits = ("-o", "Acquire::http::Timeout=15", "-o", "Acquire::https::Timeout=15", "-o", "Acquire::Retries=1")
    _command(["apt-get", "-qq", *limits, *arguments], work)


def _command(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
        )
    except subprocess.TimeoutExpired as error:
        raise NotHereError(f"{command[0]} gave no result within 300 s") from error
    except OSError as error:
        raise NotHereError(f"{command[0]} cannot be run ({_one_line(error)})") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg"))] or [done.stderr]
        raise NotHereError(f"{command[0]} failed ({_one_line(lines[0])})")


def _check_reachable(url: str) -> None:
    """Raise `NotHereError` unless the server answers within ``PATIENCE``.

    The question is asked in a thread that may be left behind, because looking up a name has no time limit of its own.
    """
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            # A server that answers with an error is reachable; the download then says what is wrong.
            with contextlib.suppress(urllib.request.HTTPError):
                urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
            answers.append(None)
        except Exception as error:  # any failure at all means that this source is not to be had
            answers.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    if not answers:
        raise NotHereError(f"{url} did not answer within {PATIENCE:g} s")
    if answers[0] is not None:
        raise NotHereError(f"{url} cannot be reached ({_one_line(answers[0])})")


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Give each read of torchvision's download a time limit; it has none of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# Files.


def _places(folder: Path) -> tuple[Path, ...]:
    return folder / "fashion-mnist", folder / "FashionMNIST" / "raw", folder


def _installed_places() -> tuple[Path, ...]:
    """Where Debian's package has its files: as ``dpkg`` says, else the usual place."""
    places = [INSTALLED]
    if shutil.which("dpkg"):
        listing = subprocess.run(["dpkg", "-L", PACKAGE], capture_output=True, text=True, check=False).stdout
        names = {f"{name}{ending}" for name in SHA256 for ending in ("", ".gz")}
        places = [Path(line).parent for line in listing.splitlines() if Path(line).name in names] or places
    return tuple(dict.fromkeys(places))


def _read_folder(folder: Path) -> tuple[Files, bool]:
    """Read and verify the four files in ``folder``; second result: whether any was compressed."""
    files: Files = {}
    compressed = False
    for name, checksum in SHA256.items():
        plain, packed = folder / name, folder / f"{name}.gz"
        try:
            if plain.is_file():
                content, path = _read(plain.open("rb", buffering=0), plain.stat().st_size), plain
            elif packed.is_file():
                content, path, compressed = bytearray(gzip.decompress(packed.read_bytes())), packed, True
            else:
                raise NotHereError(f"{folder} has no {name}")
        except (OSError, EOFError, zlib.error) as error:
            raise DamagedError(f"{folder / name} is damaged or cannot be read ({_one_line(error)})") from error
        if hashlib.sha256(content).hexdigest() != checksum:
            raise DamagedError(f"{path} is damaged (its SHA-256 is not {checksum[:12]}...)")
        files[name] = content
    return files, compressed


def _read(file: io.FileIO | io.RawIOBase, size: int) -> bytearray:
    """Read ``size`` bytes into memory that a tensor may own (``bytes`` would be read-only)."""
    with file:
        content = bytearray(size)
        file.readinto(content)
    return content


def _keep(files: Files, folder: Path) -> None:
    """Store the decompressed files for the next call, each atomically, so that processes may do it side by side."""
    try:
        for name, content in files.items():
            write_atomic(folder / "fashion-mnist" / name, bytes(content))
    except OSError as error:
        _say(f"Fashion-MNIST: cannot be kept in {folder} ({_one_line(error)}); the next run fetches it again")


def _parse(files: Files, source: str) -> FashionMNIST:
    train_images, train_labels, test_images, test_labels = (_idx(files[name]) for name in SHA256)
    return FashionMNIST(
        train_images, train_labels.long(), test_images, test_labels.long(), source=source, checksums=dict(SHA256)
    )


def _idx(content: bytearray) -> Tensor:
    """An IDX file of bytes: two zeros, type 8, number of axes, their sizes as big-endian 32 bit, then the data."""
    zeros, kind, axes = struct.unpack_from(">HBB", content)
    if zeros or kind != 8:
        raise ValueError("not an IDX file of unsigned bytes")
    shape = struct.unpack_from(f">{axes}I", content, 4)
    return torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * axes, count=math.prod(shape)).view(shape)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def _say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)
