"""The benchmark sets: where each lies on disk, what its labels mean, what is computed on it."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from common.data.preprocessing import Preprocessing
from common.errors import UserError, nearest
from common.robustness.attacks import PROTOCOLS, Attack, AutoAttack, PatchPgd, Pgd
from common.robustness.benchmarks import summaries
from common.robustness.benchmarks.base import Benchmark, Cell, Records, Stage, Value
from common.robustness.benchmarks.changes import (
    as_read,
    attacked,
    corrupted,
    dropped,
    filtered,
    patch_corrupted,
    resized,
    saliency_dropped,
    shuffled,
)
from common.robustness.benchmarks.classes import imagenet_wnids, objectnet_classes, sixteen_classes, subset
from common.robustness.benchmarks.layout import find_class_folders, find_folder
from common.robustness.benchmarks.pictures import LIBRARY, STREAMS, Pictures
from common.robustness.benchmarks.saliency import Saliency
from common.robustness.benchmarks.scores import Classification, CueConflict, Stability
from common.robustness.benchmarks.videos import Videos
from common.robustness.corruptions import CORRUPTIONS, EXTRA, SEVERITIES
from common.robustness.corruptions.frost_textures import read_pictures
from common.robustness.frequency import FILTERS, RADII
from common.robustness.metrics.sequences import NOISE, PERTURBATIONS
from common.robustness.occlusion import DROP_SHARES

#: ImageNet-C and -P were made of images resized to 256 pixels and cropped to 224, bilinearly.
STORED = Preprocessing(size=224, crop=224 / 256, interpolation="bilinear")

#: Grid of the patch drops, and grids of the patch shuffling, as in Naseer et al., arXiv 2105.10497.
DROP_GRID = 14
SHUFFLE_GRIDS = (2, 4, 8, 14)
#: Side of an attacked or corrupted patch, in pixels: one token of most vision transformers.
PATCH = 16

#: PGD of many steps, by which adversarially trained networks are measured, as in Bai et al., arXiv 2111.05464.
PGD100 = Pgd(epsilon=4 / 255, step=1 / 255, steps=100, random_start=True)

#: Norms in which networks are seldom trained, radii for images of 224 pixels, as in Singh et al., arXiv 2303.01870.
UNSEEN = {
    "autoattack_l2_eps2_top1": AutoAttack(epsilon=2.0, norm="l2"),
    "autoattack_l1_eps75_top1": AutoAttack(epsilon=75.0, norm="l1"),
}

#: In the description, and so in the protocol of every number, of what was measured without the original's pictures.
STAND_IN_FROST = "frost from stand-in textures"

_CUES = re.compile(r"([a-z]+)\d*-([a-z]+)\d*")


def _classification(name: str, dataset: str, classes: Mapping[str, int], kept: Sequence[int] | None) -> Callable:
    """A builder for a set of class folders on which accuracy is measured."""

    def build(root: str, preprocessing: Preprocessing) -> Benchmark:
        score = Classification([[index] for index in kept or range(len(classes))], kept)
        stage = Stage(name, _pictures(name, root, classes, preprocessing), score, (Cell("clean", as_read),))
        return Benchmark(
            name=name,
            description=f"{len(classes)} classes",
            stages=(stage,),
            summarise=lambda records: summaries.classification(dataset, records["clean"]),
        )

    return build


def _imagenet(root: str, preprocessing: Preprocessing) -> Benchmark:
    wnids = imagenet_wnids()
    others = {name: list(subset(name).values()) for name in ("imagenet-a", "imagenet-r")}
    stage = Stage(
        "imagenet",
        _pictures("imagenet", root, _all_classes(), preprocessing),
        Classification([[index] for index in range(len(wnids))], subsets=others),
        (Cell("clean", as_read),),
    )

    def summarise(records: Records) -> list[Value]:
        clean = records["clean"]
        values = summaries.classification("imagenet-1k", clean)
        for name in others:
            right = clean[f"top1/{name}"]
            right = right[right >= 0]
            if right.size:
                values.append(summaries.accuracy(f"imagenet-1k/{name}-classes", "top1", right))
        return values

    return Benchmark(name="imagenet", description="1000 classes", stages=(stage,), summarise=summarise)


def _attacks(name: str, attacks: Mapping[str, Attack]) -> Callable:
    """A builder for accuracy under attacks on ImageNet's validation set."""

    def build(root: str, preprocessing: Preprocessing) -> Benchmark:
        cells = tuple(Cell(metric, attacked(attack)) for metric, attack in attacks.items())
        return _changed(name, root, preprocessing, cells, f"attacks {', '.join(map(str, attacks.values()))}")

    return build


def _occlusion(root: str, preprocessing: Preprocessing, *, saliency: Path | None = None) -> Benchmark:
    cells, description = _occlusions(preprocessing, saliency)
    return _changed("imagenet-occlusion", root, preprocessing, cells, description)


def _occlusions(preprocessing: Preprocessing, saliency: Path | None) -> tuple[tuple[Cell, ...], str]:
    """Dropped and shuffled patches, and their description."""
    tiles = DROP_GRID**2
    # Shuffled tiles are of one size; those that are dropped need not be.
    grids = [grid for grid in SHUFFLE_GRIDS if preprocessing.size % grid == 0]
    cells = [
        Cell(f"random_drop_top1/{share:g}", dropped(int(share * tiles + 1e-9), DROP_GRID)) for share in DROP_SHARES
    ]
    description = (
        f"random drop on a grid of {DROP_GRID}, shuffling on grids {', '.join(map(str, grids))}, drawn for each image"
    )
    if saliency is not None:
        look = Saliency(saliency)
        for kind, salient in (("salient", True), ("nonsalient", False)):
            cells += [
                Cell(f"{kind}_drop_top1/{share:g}", saliency_dropped(look, share, salient, DROP_GRID))
                for share in DROP_SHARES[1:]
            ]
        description += f", salience by {look}, shares of its mass"
    cells += [Cell(f"shuffle_top1/{grid}x{grid}", shuffled(grid)) for grid in grids]
    return tuple(cells), description


def _frequency(root: str, preprocessing: Preprocessing) -> Benchmark:
    return _changed("imagenet-frequency", root, preprocessing, *_frequencies())


def _frequencies() -> tuple[tuple[Cell, ...], str]:
    """Low and high pass by radius, and their description."""
    cells = tuple(Cell(f"{metric}/{radius:g}", filtered(metric, radius)) for metric in FILTERS for radius in RADII)
    return cells, "circular filters, radii in units of half a cycle a pixel; the high pass keeps a channel's mean"


def _images(root: str, preprocessing: Preprocessing) -> Benchmark:
    read, score, description = _own_pictures(root, preprocessing)
    return Benchmark(
        name="images",
        description=description,
        stages=(Stage("images", read, score, (Cell("clean", as_read),)),),
        summarise=lambda records: summaries.classification("images", records["clean"]),
    )


def _images_occlusion(root: str, preprocessing: Preprocessing, *, saliency: Path | None = None) -> Benchmark:
    return _own_changed("images-occlusion", root, preprocessing, *_occlusions(preprocessing, saliency))


def _images_frequency(root: str, preprocessing: Preprocessing) -> Benchmark:
    return _own_changed("images-frequency", root, preprocessing, *_frequencies())


def _own_changed(
    name: str, root: str, preprocessing: Preprocessing, cells: tuple[Cell, ...], changes: str
) -> Benchmark:
    """Accuracy on any class folders under changes, one metric a cell, named as the cell."""
    read, score, description = _own_pictures(root, preprocessing)
    return Benchmark(
        name=name,
        description=f"{description}, {changes}",
        stages=(Stage(name, read, score, cells),),
        summarise=lambda records: _accuracies("images", records),
    )


def _own_pictures(root: str, preprocessing: Preprocessing) -> tuple[Callable[[], Pictures], Classification, str]:
    """How any class folders are opened and scored, and their description.

    Folders that are all named by WordNet ids of ImageNet-1k are among the 1,000 outputs of its models; others are a
    model's outputs in the order in which timm sorts them.
    """
    folder, names = find_class_folders(Path(root), *_specification("images"))
    known = _all_classes()
    if set(names) <= known.keys():
        classes, outputs, among = {name: known[name] for name in names}, len(known), " of ImageNet-1k's 1000"
    else:
        classes, outputs, among = {name: index for index, name in enumerate(names)}, len(names), ""
    score = Classification([[index] for index in range(outputs)], outputs=outputs)
    return partial(Pictures, folder, classes, preprocessing.transform()), score, f"{len(names)}{among} classes"


def _patch_corruption(root: str, preprocessing: Preprocessing, *, frost_photos: Path | None = None) -> Benchmark:
    cells = [
        Cell(f"patch_corruption_top1/{name}/{severity}", patch_corrupted(name, severity, PATCH, frost_photos))
        for name in CORRUPTIONS
        for severity in SEVERITIES
    ]
    description = f"one corrupted patch of {PATCH} pixels, {_frost(frost_photos)}, one seed an image"
    bench = _changed("imagenet-patch-corruption", root, preprocessing, tuple(cells), description)
    return replace(bench, summarise=lambda records: summaries.mean_and_cells("patch_corruption_top1", records))


def _changed(
    name: str, root: str, preprocessing: Preprocessing, cells: tuple[Cell, ...], description: str
) -> Benchmark:
    """Accuracy on ImageNet's validation set under changes, one metric a cell, named as the cell."""
    score = Classification([[index] for index in range(len(imagenet_wnids()))])
    stage = Stage(name, _pictures("imagenet", root, _all_classes(), preprocessing), score, cells)

    return Benchmark(
        name=name,
        description=description,
        stages=(stage,),
        summarise=lambda records: _accuracies("imagenet-1k", records),
    )


def _accuracies(dataset: str, records: Records) -> list[Value]:
    return [summaries.accuracy(dataset, cell, record["top1"]) for cell, record in records.items()]


def _real(root: str, preprocessing: Preprocessing) -> Benchmark:
    text = pkgutil.get_data("timm.data", "_info/imagenet_real_labels.json")
    if text is None:
        raise UserError("timm's table of the ReaL labels is missing; reinstall timm.")
    of_image = [tuple(labels) for labels in json.loads(text)]
    distinct = sorted({labels for labels in of_image if labels})
    label = {labels: index for index, labels in enumerate(distinct)}

    open_all = _pictures("imagenet-real", root, _all_classes(), preprocessing)

    def read() -> Pictures:
        pictures = open_all()
        labels = {}
        for position, file in enumerate(pictures.names()):
            number = re.fullmatch(r"ILSVRC2012_val_(\d{8})(_n\d{8})?\.\w+", file)
            if not number or not 1 <= int(number[1]) <= len(of_image):
                raise UserError(f"{root}: {file} is not a file name of ImageNet's validation set; ReaL labels need it.")
            if of_image[int(number[1]) - 1]:
                labels[position] = label[of_image[int(number[1]) - 1]]
        pictures.relabel(labels)
        return pictures

    return Benchmark(
        name="imagenet-real",
        description="images with one or more ReaL labels",
        stages=(Stage("imagenet-real", read, Classification(distinct), (Cell("clean", as_read),)),),
        summarise=lambda records: summaries.classification("imagenet-real", records["clean"]),
    )


def _imagenet_o(root: str, preprocessing: Preprocessing, *, clean: str | None = None) -> Benchmark:
    outputs = subset("imagenet-o")
    classes = {wnid: label for label, wnid in enumerate(outputs)}
    unknown = _pictures("imagenet-o", root, classes, preprocessing)
    if clean is None:
        raise UserError(
            "ImageNet-O is told from ImageNet's validation images of the same 200 classes; give their folder too "
            "(on the command line: --data imagenet-o=DIR imagenet=DIR)."
        )
    known = partial(Pictures, _folder("imagenet", clean, _all_classes()), classes, preprocessing.transform())
    score = Classification([[index] for index in outputs.values()], list(outputs.values()))
    stages = tuple(
        Stage(name, read, score, (Cell(name, as_read),)) for name, read in (("unknown", unknown), ("known", known))
    )
    return Benchmark(
        name="imagenet-o",
        description="unknown is positive, anomaly score: minus the largest softmax probability among 200 classes",
        stages=stages,
        summarise=lambda records: summaries.unknown_classes("imagenet-o", records),
    )


def _objectnet(root: str, preprocessing: Preprocessing) -> Benchmark:
    title, layout, places = _specification("objectnet")
    base = find_folder(Path(root), title, layout, (".", "objectnet-1.0"), ("images", "mappings"), all_of_them=False)
    shared = objectnet_classes(base / "mappings")
    classes = {folder: label for label, folder in enumerate(sorted(shared))}
    folder = find_folder(base, title, layout, places, classes, all_of_them=False)
    _require(folder, title, layout, classes)
    score = Classification([shared[folder] for folder in sorted(shared)])
    # The pictures have a red border, so that nobody trains on them unnoticed.
    read = partial(Pictures, folder, classes, preprocessing.transform(), border=2)
    return Benchmark(
        name="objectnet",
        description=f"{len(classes)} classes shared with ImageNet, argmax over all 1000, border of 2 pixels cut off",
        stages=(Stage("objectnet", read, score, (Cell("clean", as_read),)),),
        summarise=lambda records: summaries.classification("objectnet", records["clean"]),
    )


def _cue_conflict(root: str, preprocessing: Preprocessing) -> Benchmark:
    categories = list(sixteen_classes())
    folder = _folder("cue-conflict", root, categories)

    def read() -> Pictures:
        pictures = Pictures(folder, {name: index for index, name in enumerate(categories)}, preprocessing.transform())
        labels = {}
        for position, file in enumerate(pictures.names()):
            cues = _CUES.fullmatch(Path(file).stem.rpartition("_")[2])
            if not cues or cues[1] not in categories or cues[2] not in categories:
                raise UserError(f"{folder}: {file} does not name shape and texture; expected e.g. cat1-elephant2.png.")
            labels[position] = categories.index(cues[1]) * len(categories) + categories.index(cues[2])
        pictures.relabel(labels)
        return pictures

    return Benchmark(
        name="cue-conflict",
        description="16 categories, mean probability of 207 ImageNet classes",
        stages=(Stage("cue-conflict", read, CueConflict(), (Cell("clean", as_read),)),),
        summarise=lambda records: summaries.cue_conflict("cue-conflict", records["clean"]),
    )


def _imagenet_c(
    root: str,
    preprocessing: Preprocessing,
    *,
    name: str = "imagenet-c",
    corruptions: tuple[str, ...] = CORRUPTIONS,
    clean: str | None = None,
) -> Benchmark:
    title, layout, places = _specification(name)
    folder = find_folder(Path(root), title, layout, places, corruptions, all_of_them=False)
    cells = [f"{corruption}/{severity}" for corruption in corruptions for severity in SEVERITIES]
    _require(folder, title, layout, cells)
    stored = replace(preprocessing, crop=1.0)

    sizes: dict[str, int] = {}

    def stage(name: str, where: str, how: Preprocessing) -> Stage:
        open_all = _pictures("imagenet", where, _all_classes(), how)

        def read() -> Pictures:
            pictures = open_all()
            sizes[where] = len(pictures)
            first, size = next(iter(sizes.items()))
            if len(pictures) != size:
                raise UserError(
                    f"{where} has {len(pictures)} images and {first} has {size}; unpack both again, all cells of "
                    f"{title} hold the same images."
                )
            return pictures

        score = Classification([[index] for index in range(len(imagenet_wnids()))])
        return Stage(name, read, score, (Cell(name, as_read),))

    stages = [stage(cell, str(folder / cell), stored) for cell in cells]
    if clean is not None:
        stages.append(stage("clean", clean, preprocessing))
    return Benchmark(
        name=name,
        description="stored images, not resized but to another input size than 224",
        stages=tuple(stages),
        summarise=lambda records: summaries.corruptions("imagenet-c", records, corruptions),
    )


def _imagenet_c_generated(
    root: str, preprocessing: Preprocessing, *, jpeg: bool = True, frost_photos: Path | None = None
) -> Benchmark:
    cells = [Cell("clean", resized(preprocessing))]
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            cells.append(Cell(f"{name}/{severity}", corrupted(name, severity, preprocessing, jpeg, frost_photos)))
    score = Classification([[index] for index in range(len(imagenet_wnids()))])
    stage = Stage("imagenet-c-generated", _pictures("imagenet", root, _all_classes(), STORED), score, tuple(cells))
    return Benchmark(
        name="imagenet-c-generated",
        description=(
            "corruptions computed on images resized to 256 bilinear and cropped to 224, "
            f"{'stored as JPEG 85' if jpeg else 'not stored as JPEG'}, "
            f"{_frost(frost_photos)}, one seed an image"
        ),
        stages=(stage,),
        summarise=lambda records: summaries.corruptions("imagenet-c-generated", records, CORRUPTIONS),
    )


def _frost(photos: Path | None) -> str:
    if photos is None:
        return STAND_IN_FROST
    read_pictures(str(photos))  # whether they are there is said before the first image is evaluated
    return "frost from the given photographs"


def _imagenet_p(
    root: str,
    preprocessing: Preprocessing,
    *,
    alexnet_flips: Mapping[str, float] | None = None,
    alexnet_distances: Mapping[str, float] | None = None,
) -> Benchmark:
    title, layout, places = _specification("imagenet-p")
    folder = find_folder(Path(root), title, layout, places, PERTURBATIONS, all_of_them=False)
    _require(folder, title, layout, PERTURBATIONS)
    stages = tuple(
        Stage(name, partial(Videos, folder / name), Stability(name in NOISE), (Cell(name, resized(preprocessing)),))
        for name in PERTURBATIONS
    )
    return Benchmark(
        name="imagenet-p",
        description="sequences of 10 perturbations, difficulty 1, frames of 224 pixels",
        stages=stages,
        summarise=lambda records: summaries.stability("imagenet-p", records, alexnet_flips, alexnet_distances),
    )


def _pictures(name: str, root: str, classes: Mapping[str, int], preprocessing: Preprocessing) -> Callable[[], Pictures]:
    folder = _folder(name, root, classes)
    return lambda: Pictures(folder, classes, preprocessing.transform())


def _folder(name: str, root: str, classes: Collection[str]) -> str | Path:
    """The folder of a set of class folders; a tar file or a ``prefix/name`` of a library is taken as it is."""
    if root.startswith((LIBRARY, *STREAMS)) and not Path(root).exists():
        return root
    if Path(root).is_file() and ".tar" in root:
        return root
    title, layout, places = _specification(name)
    return find_folder(Path(root), title, layout, places, classes)


def _require(folder: Path, title: str, layout: str, names: Collection[str]) -> None:
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        raise UserError(f"{folder} lacks {len(missing)} folders of {title}, the first {missing[0]}: expected {layout}.")


def _all_classes() -> dict[str, int]:
    return {wnid: index for index, wnid in enumerate(imagenet_wnids())}


def _specification(name: str) -> tuple[str, str, list[str]]:
    entry = _specifications()[name]
    return entry["title"], entry["layout"], entry["places"]


@lru_cache(maxsize=1)
def _specifications() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("sets.json").read_text())


def _subset(name: str) -> Callable:
    indices = subset(name)
    return _classification(name, name, {wnid: label for label, wnid in enumerate(indices)}, list(indices.values()))


def _builders() -> dict[str, Callable[..., Benchmark]]:
    return {
        "imagenet": _imagenet,
        "imagenet-attacks": _attacks("imagenet-attacks", PROTOCOLS),
        "imagenet-autoattack": _attacks("imagenet-autoattack", {"autoattack_eps4_top1": AutoAttack(epsilon=4 / 255)}),
        "imagenet-autoattack-unseen": _attacks("imagenet-autoattack-unseen", UNSEEN),
        "imagenet-pgd100": _attacks("imagenet-pgd100", {"pgd100_eps4_top1": PGD100}),
        "imagenet-patch-attack": _attacks("imagenet-patch-attack", {"patch_attack_top1": PatchPgd(size=PATCH)}),
        "imagenet-patch-corruption": _patch_corruption,
        "imagenet-occlusion": _occlusion,
        "imagenet-frequency": _frequency,
        "imagenet-c": _imagenet_c,
        "imagenet-c-19": partial(_imagenet_c, name="imagenet-c-19", corruptions=CORRUPTIONS + EXTRA),
        "imagenet-c-generated": _imagenet_c_generated,
        "imagenet-p": _imagenet_p,
        "imagenet-a": _subset("imagenet-a"),
        "imagenet-o": _imagenet_o,
        "imagenet-r": _subset("imagenet-r"),
        "imagenet-sketch": _classification("imagenet-sketch", "imagenet-sketch", _all_classes(), None),
        "imagenet-v2": _classification("imagenet-v2", "imagenet-v2", {str(i): i for i in range(1000)}, None),
        "imagenet-real": _real,
        "stylized-imagenet": _classification("stylized-imagenet", "stylized-imagenet", _all_classes(), None),
        "objectnet": _objectnet,
        "cue-conflict": _cue_conflict,
        "images": _images,
        "images-occlusion": _images_occlusion,
        "images-frequency": _images_frequency,
    }


#: Names that ``benchmark`` knows.
BENCHMARKS: tuple[str, ...] = tuple(_builders())


def benchmark(name: str, root: Path | str, preprocessing: Preprocessing | None = None, **options: Any) -> Benchmark:
    """A benchmark set on disk.

    Args:
        name: one of ``BENCHMARKS``. Those named ``imagenet-`` and a change (``-attacks``, ``-autoattack``,
            ``-autoattack-unseen``, ``-pgd100``, ``-patch-attack``, ``-patch-corruption``, ``-occlusion``,
            ``-frequency``, ``-c-generated``) are computed on ImageNet's validation set, ``images``,
            ``images-occlusion`` and ``images-frequency`` on class folders of any data. ``imagenet-c-19`` is ImageNet-C
            with its four extra corruptions.
        root: its folder; for sets of class folders also a tar file or a Hugging Face data set ``hfds/NAME``.
        preprocessing: of the model; default: 256/224 bicubic, ImageNet's mean and standard deviation.
        options: ``clean`` (folder of ImageNet) for imagenet-c and -c-19, where it adds relative mCE, and imagenet-o,
            which needs it; ``jpeg`` for imagenet-c-generated; ``frost_photos`` for it and imagenet-patch-corruption;
            ``saliency`` (weights of DINO ViT-S/16) for imagenet-occlusion and images-occlusion; ``alexnet_flips`` (flip
            probabilities in [0, 1]) and ``alexnet_distances`` (top-5 distances), both by perturbation, for imagenet-p.

    Raises:
        UserError: no such benchmark, or the folder is missing or laid out otherwise.
    """
    builders = _builders()
    if name not in builders:
        raise UserError(f"unknown benchmark {name!r}.{nearest(name, builders)} Known are {', '.join(builders)}.")
    return builders[name](str(root), preprocessing or Preprocessing(), **options)
