"""Fashion-MNIST: the real data, and every source and failure with a miniature in its place."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import multiprocessing
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from common.data import fashion_mnist
from common.data.fashion_mnist import (
    CLASSES,
    MEAN,
    PACKAGE,
    SHA256,
    STD,
    find_fashion_mnist,
    load_fashion_mnist,
)
from common.errors import UserError

NAMES = tuple(SHA256)


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture(scope="module")
def content():
    generator = np.random.default_rng(0)
    train, test = (generator.integers(0, 256, (n, 28, 28), dtype=np.uint8) for n in (6, 4))
    labels = [np.arange(n, dtype=np.uint8) for n in (6, 4)]
    return dict(zip(NAMES, map(idx, (train, labels[0], test, labels[1])), strict=True))


@pytest.fixture
def miniature(content, monkeypatch, tmp_path):
    """Sums of six and four images in place of the real ones, and no source but the data folder."""
    sums = {name: hashlib.sha256(content[name]).hexdigest() for name in NAMES}
    monkeypatch.setattr(fashion_mnist, "SHA256", sums)
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "usr/share/datasets/fashion-mnist")
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return content


def write(content, folder, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(data) if packed else data)


def stored(folder):
    return {name: (folder / "fashion-mnist" / name).read_bytes() for name in NAMES}


def tool(folder, name, script):
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\nPATH={os.defpath}\n{script}\n")
    path.chmod(0o755)


def test_the_real_data():
    try:
        data = load_fashion_mnist()
    except UserError as error:
        pytest.skip(str(error))
    assert data.train_images.shape == (60000, 28, 28)
    assert data.test_images.shape == (10000, 28, 28)
    assert data.train_images.dtype == data.test_images.dtype == torch.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64
    assert data.train_labels.bincount().tolist() == [6000] * 10
    assert data.test_labels.bincount().tolist() == [1000] * 10
    assert data.classes == CLASSES
    assert data.checksums == SHA256
    pixels = data.train_images.double() / 255
    assert (round(pixels.mean().item(), 4), round(pixels.std().item(), 4)) == (MEAN, STD)
    assert find_fashion_mnist().folder is not None


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_the_data_folder(miniature, tmp_path, place, packed):
    folder = tmp_path / "data"
    write(miniature, folder / place, packed)
    data = load_fashion_mnist(folder)
    assert data.train_images.shape == (6, 28, 28)
    assert data.test_images.shape == (4, 28, 28)
    assert data.train_images.numpy().tobytes() == miniature[NAMES[0]][16:]
    assert data.train_labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.source == str(folder / place)
    if packed:
        assert stored(folder) == miniature
    assert find_fashion_mnist(folder).folder is not None


def test_the_environment_names_the_folder(miniature, tmp_path, monkeypatch):
    write(miniature, tmp_path / "elsewhere")
    monkeypatch.setenv("RESIGHT_DATA", str(tmp_path / "elsewhere"))
    assert load_fashion_mnist().source == str(tmp_path / "elsewhere")


def test_the_installed_package(miniature, tmp_path):
    write(miniature, fashion_mnist.INSTALLED, packed=True)
    assert find_fashion_mnist(tmp_path / "data").folder == fashion_mnist.INSTALLED
    assert not (tmp_path / "data").exists()
    data = load_fashion_mnist(tmp_path / "data")
    assert data.source == f"Debian package {PACKAGE}, installed in {fashion_mnist.INSTALLED}"
    assert stored(tmp_path / "data") == miniature
    assert load_fashion_mnist(tmp_path / "data").source == str(tmp_path / "data" / "fashion-mnist")


def test_the_installed_package_where_dpkg_says(miniature, tmp_path):
    write(miniature, tmp_path / "opt", packed=True)
    tool(tmp_path, "dpkg", f"ls {tmp_path}/opt/*")
    assert load_fashion_mnist(tmp_path / "data").source.endswith(f"installed in {tmp_path / 'opt'}")


def test_torchvision(miniature, tmp_path, monkeypatch):
    write(miniature, tmp_path / "served", packed=True)
    sums = [
        (f"{name}.gz", hashlib.md5((tmp_path / "served" / f"{name}.gz").read_bytes()).hexdigest()) for name in NAMES
    ]

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path / "served")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", sums)
        data = load_fashion_mnist(tmp_path / "data")
        server.shutdown()
    assert data.source.endswith("through torchvision")
    assert stored(tmp_path / "data") == miniature


def test_a_silent_server_is_given_up(miniature, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, never answers
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [url])
        with pytest.raises(UserError, match=rf"{url} (did not answer within 0.2 s|cannot be reached)"):
            load_fashion_mnist(tmp_path / "data")
    assert socket.getdefaulttimeout() is None


@pytest.fixture
def archive(miniature, tmp_path, monkeypatch):
    """Debian's package in miniature, and dpkg."""
    dpkg = shutil.which("dpkg", path=os.defpath)
    if dpkg is None:
        pytest.skip("dpkg is not installed")
    root = tmp_path / "package"
    write(miniature, root / "usr/share/datasets/fashion-mnist", packed=True)
    monkeypatch.setattr(fashion_mnist, "INSTALLED", Path("/usr/share/datasets/fashion-mnist"))
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN" / "control").write_text(
        f"Package: {PACKAGE}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n"
        "Description: miniature\n"
    )
    built = tmp_path / f"{PACKAGE}_1_all.deb"
    environment = {**os.environ, "PATH": os.defpath}
    subprocess.run(
        [f"{dpkg}-deb", "--root-owner-group", "-b", root, built], check=True, env=environment, capture_output=True
    )
    tool(tmp_path, "dpkg", f'[ "$1" = -L ] || exec {dpkg} "$@"')
    return built


def test_debians_archive(archive, miniature, tmp_path):
    tool(tmp_path, "apt-get", f"cp {archive} .")
    data = load_fashion_mnist(tmp_path / "data")
    assert data.source == f"Debian archive, {archive.name}"
    assert stored(tmp_path / "data") == miniature


def test_debians_archive_without_package_lists(archive, miniature, tmp_path):
    tool(
        tmp_path,
        "apt-get",
        f"""
        for word; do
            case $word in Dir::State::lists=*) lists=${{word#*=}};; esac
        done
        case $word in
            update) touch "$lists/fetched"; echo "W: some other list" >&2; exit 100;;
            {PACKAGE}) [ -e "$lists/fetched" ] || {{ echo "E: Unable to locate package" >&2; exit 100; }}
               cp {archive} .;;
        esac
        """,
    )
    assert load_fashion_mnist(tmp_path / "data").source == f"Debian archive, {archive.name}"
    assert stored(tmp_path / "data") == miniature


def test_nothing_anywhere_is_one_sentence(miniature, tmp_path):
    tool(tmp_path, "dpkg", "exit 1")
    tool(tmp_path, "apt-get", "echo 'E: Unable to locate package' >&2; exit 100")
    finding = find_fashion_mnist(tmp_path / "data")
    assert finding.folder is None
    assert finding.sentence.startswith(f"Fashion-MNIST is neither in {tmp_path / 'data'} nor installed")
    with pytest.raises(UserError) as raised:
        load_fashion_mnist(tmp_path / "data")
    sentence = str(raised.value)
    assert "\n" not in sentence
    for part in (*NAMES, str(tmp_path / "data" / "fashion-mnist"), PACKAGE, "apt-get failed (E: Unable", "127.0.0.1"):
        assert part in sentence
    assert not (tmp_path / "data").exists()


DAMAGES = {
    "shorter": lambda data: data[:-1],
    "another end": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "another middle": lambda data: data[:100] + bytes(50) + data[150:],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_files_are_not_used(miniature, tmp_path, damage, packed, capfd):
    folder = tmp_path / "data" / "fashion-mnist"
    write(miniature, folder, packed)
    path = folder / (f"{NAMES[2]}.gz" if packed else NAMES[2])
    path.write_bytes(damage(path.read_bytes()))
    assert "is damaged" in find_fashion_mnist(tmp_path / "data").sentence
    with pytest.raises(UserError, match=rf"{NAMES[2]}.* is damaged"):
        load_fashion_mnist(tmp_path / "data")
    write(miniature, fashion_mnist.INSTALLED, packed=True)
    assert load_fashion_mnist(tmp_path / "data").source.startswith("Debian package")
    assert "is damaged" in capfd.readouterr().err
    assert load_fashion_mnist(tmp_path / "data").source == str(folder)
    assert stored(tmp_path / "data") == miniature


def test_a_folder_that_cannot_be_written_is_no_obstacle(miniature, tmp_path, capfd):
    write(miniature, fashion_mnist.INSTALLED, packed=True)
    (tmp_path / "data").write_text("a file where the folder should be")
    assert load_fashion_mnist(tmp_path / "data").train_labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert "cannot be kept" in capfd.readouterr().err


def _load(folder):
    return load_fashion_mnist(folder).source


def test_processes_may_load_at_the_same_time(miniature, tmp_path):
    write(miniature, fashion_mnist.INSTALLED, packed=True)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(_load, [tmp_path / "data"] * 12)
    assert stored(tmp_path / "data") == miniature
    assert sorted(path.name for path in (tmp_path / "data" / "fashion-mnist").iterdir()) == sorted(NAMES)
