"""What a claim needs before it can be measured, and how a user provides it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """One thing that a machine may or may not have.

    Attributes:
        name: the key under which claims ask for it.
        tier: cost class: ``"nothing"``, ``"embedded"``, ``"command"`` (another command measures it), ``"data"`` (a data
            set that the user brings) or ``"checkpoint"``.
        option: the command-line option that provides it, empty where none is needed.
        remedy: one clause that tells how to provide it; SLUG stands for the paper's.
    """

    name: str
    tier: str
    option: str
    remedy: str


def _folder(name: str, what: str) -> Need:
    return Need(name, "data", f"--{name}", f"--{name} DIR ({what})")


#: Every need by its name, cheapest first: what several papers share; a paper's declaration adds its own.
NEEDS: dict[str, Need] = {
    need.name: need
    for need in (
        Need(
            "embedded",
            "embedded",
            "",
            "Fashion-MNIST (found or fetched by itself; see ./reproduce.sh doctor)",
        ),
        Need("downstream", "command", "", "the command ./reproduce.sh SLUG downstream"),
        Need("corruptions", "command", "--corruptions", "--corruptions (evaluates dozens of times)"),
        Need("checkpoint", "checkpoint", "--checkpoint", "--checkpoint FILE (released or own weights)"),
        _folder("imagenet", "ImageNet-1k with a val folder of 1,000 class folders"),
        _folder("imagenet-c", "ImageNet-C as corruption/severity/class folders"),
        _folder("imagenet-a", "ImageNet-A, 200 class folders"),
        _folder("imagenet-r", "ImageNet-R, 200 class folders"),
        _folder("imagenet-sketch", "ImageNet-Sketch, 1,000 class folders"),
        _folder("imagenet-v2", "ImageNet-V2 matched-frequency, 1,000 class folders"),
        _folder("imagenet-real", "ImageNet-1k's validation images under their own names, for ReaL labels"),
        _folder("stylized-imagenet", "Stylized-ImageNet with a val folder"),
        _folder("cue-conflict", "Geirhos et al.'s cue conflict images, 16 category folders"),
        _folder("cifar-10", "CIFAR-10 as torchvision has it"),
        _folder("cifar-100", "CIFAR-100 as torchvision has it"),
        _folder("cifar-10-c", "CIFAR-10-C, an .npy file per corruption"),
        _folder("cifar-100-c", "CIFAR-100-C, an .npy file per corruption"),
        _folder("objectnet", "ObjectNet, one folder per object"),
        _folder("coco", "COCO 2017 with annotations, train2017 and val2017"),
        _folder("ade20k", "ADEChallengeData2016"),
        _folder("cityscapes", "Cityscapes with leftImg8bit and gtFine"),
    )
}


def own_folder(name: str, what: str) -> str:
    """Make known a data set that only one paper asks for, a folder given by ``--name DIR``, and return its name.

    Raises:
        ValueError: another need has that name.
    """
    need = _folder(name, what)
    if NEEDS.setdefault(name, need) != need:
        raise ValueError(f"there are two different needs {name!r}; give one of them another name")
    return name


def sentence(remedies: Sequence[str], slug: str) -> str:
    """What a claim of the paper ``slug`` still needs, in words."""
    return f"needs {' and '.join(remedies)}".replace("SLUG", slug)


def command(needs: Sequence[str], slug: str) -> str:
    """The command that provides needs, e.g. ``./reproduce.sh vars --imagenet DIR --checkpoint FILE``."""
    arguments = {"data": " DIR", "checkpoint": " FILE"}
    words = ["./reproduce.sh", slug] + ["downstream"] * ("downstream" in needs)
    words += [f"{need.option}{arguments.get(need.tier, '')}" for name in needs if (need := NEEDS[name]).option]
    return " ".join(words)
