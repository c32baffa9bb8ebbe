"""The analyses at full scale: the user's checkpoint on ImageNet, and on the pairs of SPair-71k."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from common.attention import resize_input
from common.data.pixels import READ_ERRORS, UnreadableImage, read_image
from common.data.preprocessing import Preprocessing
from common.errors import UserError
from common.measurement import Measurement, Result
from common.progress import track
from common.robustness.benchmarks import benchmark
from common.run import Run
from common.statistics import mean_interval
from papers.teaching_matters import attention as att
from papers.teaching_matters import pictures, tasks, weights
from papers.teaching_matters.inside import attention_maps, block_tokens, blocks_of
from papers.teaching_matters.settings import Analysis, released
from papers.teaching_matters.similarity import CKA

#: Pictures of a fixed random order that are looked into without --limit.
IMAGES = 480
SPAIR = "spair-71k"
#: What is read of a pair's annotation.
_KEYS = (
    "category", "src_imname", "trg_imname", "src_kps", "trg_kps", "src_imsize", "trg_imsize", "trg_bndbox",
)  # fmt: skip
LAYOUT = "PairAnnotation/test and JPEGImages, as SPair-71k is distributed"


def inside(run: Run) -> Iterator[Result]:
    """Attention distance and offset of every head, and CKA of the blocks' patch tokens, on ImageNet's images.

    Raises:
        UserError: the checkpoint fits no network, a picture cannot be read, or there are fewer than a batch of CKA.
    """
    settings = released()
    model, name, declared = _prepared(run, settings)
    (stage,) = benchmark("imagenet", run.settings.folders["imagenet"], declared).stages
    pictures_read = stage.read()
    choice = pictures_read.keep(run.settings.limit or IMAGES)
    batches = torch.arange(len(pictures_read)).split(settings.cka_batch)
    if len(batches[0]) < settings.cka_batch:
        raise UserError(
            f"{len(pictures_read)} pictures are too few for CKA; give --limit {settings.cka_batch} or more."
        )
    similar, far, moved = CKA(), [], torch.zeros(())
    for batch in track(batches, f"inside of {name}"):
        images = torch.stack([_picture(pictures_read[int(place)]) for place in batch])
        images = _normalised(images.float() / 255, declared, run.settings.device)
        for part in images.split(settings.attention_batch):
            maps = attention_maps(model, part)
            far.append(att.attention_distance(maps).cpu())
            moved = moved + len(part) * att.aligned(maps).cpu()  # a mean over the part's images
        if len(batch) == settings.cka_batch:  # an incomplete batch would count as much as the others
            layers = block_tokens(model, images)[:, :, 1:].unbind(dim=1)
            similar.add(layers, layers)
    distances = torch.cat(far)
    shifted = moved / len(distances)
    offsets, cka = att.offsets(shifted).norm(dim=-1), similar.value().cpu()
    common: dict[str, Any] = {"model": name, "dataset": "imagenet-1k", "weights": "released", "n": len(distances)}
    protocol = "; ".join(filter(None, [str(declared), choice]))
    for block, own in enumerate(distances.mean(dim=2).T.numpy(), 1):
        estimate = mean_interval(100 * own)
        yield Measurement(
            **common,
            metric=f"relative_attention_distance/{block}",
            value=estimate.value,
            unit="%",
            interval=estimate.interval,
            over="images" if estimate.interval else "",
            protocol=f"relative_attention_distance/1 {protocol}",
            detail={"by_head": (100 * distances[:, block - 1].mean(dim=0)).tolist()},
        )
    yield Measurement(
        **common,
        metric="head_offset",
        value=100 * float(offsets.max()),
        unit="%",
        protocol=f"head_offset/1 {protocol}",
        detail={"by_block_and_head": (100 * offsets).tolist()},
    )
    yield pictures.heads_picture(
        "offset_heads",
        {name: shifted},
        "Attention by displacement from the patch that asks, in the middle; a row is a block, a column a head.",
    )
    yield pictures.similarities(cka, [f"block {block}" for block in range(1, len(cka) + 1)])


def keypoints(run: Run) -> Iterator[Result]:
    """Share of keypoints that each block finds in the other picture of a pair, mean over categories.

    Raises:
        UserError: the checkpoint fits no network, or the folder is laid out otherwise.
    """
    settings = released()
    model, name, declared = _prepared(run, settings)
    root = run.settings.folders[SPAIR]
    by_category = []
    for category, files in track(list(chosen_pairs(root, settings).items()), SPAIR):

        def compute(files: list[Path] = files) -> list[list[float]]:
            return torch.cat([_found(model, declared, root, file, settings) for file in files], dim=1).tolist()

        right = run.memo(f"{SPAIR} {root} {name} {category} {[file.name for file in files]}", compute)
        by_category.append(np.mean(right, axis=1))
    for block, shares in enumerate(np.array(by_category).T, 1):
        yield Measurement(
            model=name,
            dataset=SPAIR,
            metric=f"keypoint_pck/{block}",
            value=100 * float(shares.mean()),
            unit="%",
            weights="released",
            n=len(shares) * settings.pairs_per_category,
            protocol=f"keypoint_pck/1 {declared}, within {settings.alpha:g} of the box, mean over categories",
        )


def _prepared(run: Run, settings: Analysis) -> tuple[nn.Module, str, Preprocessing]:
    """The user's network, its name, and its statistics with the crop that is released for all networks.

    Raises:
        UserError: the checkpoint fits no network, or there is no looking into the one that it fits.
    """
    model, name = weights.load(run)
    blocks_of(model)
    own: Any = model
    if max(own.patch_embed.img_size) != settings.image_size:
        resize_input(model, settings.image_size)
    given = Preprocessing.of(model)
    return model, name, Preprocessing(size=settings.image_size, crop=1.0, mean=given.mean, std=given.std)


def _picture(sample: Any) -> Tensor:
    if isinstance(sample, UnreadableImage):
        raise UserError(f"{sample.name} cannot be read ({sample.reason}); restore this file.")
    return sample[1]


def _normalised(images: Tensor, declared: Preprocessing, device: str) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (declared.mean, declared.std))
    return ((images - mean) / std).to(device)


def chosen_pairs(root: Path, settings: Analysis) -> dict[str, list[Path]]:
    """Annotations of some test pairs of every category of SPair-71k, drawn with replacement, the same on any machine.

    Raises:
        UserError: there are none.
    """
    files = sorted((root / "PairAnnotation" / "test").glob("*.json"))
    if not files:
        raise UserError(f"{root} has no pairs in PairAnnotation/test; expected {LAYOUT}.")
    by_category: dict[str, list[Path]] = {}
    for file in files:
        by_category.setdefault(file.stem.rpartition("_")[2].rpartition(":")[2], []).append(file)
    random = np.random.default_rng(settings.pairs_seed)
    return {
        category: [own[place] for place in random.integers(len(own), size=settings.pairs_per_category)]
        for category, own in sorted(by_category.items())
    }


def _found(model: nn.Module, declared: Preprocessing, root: Path, file: Path, settings: Analysis) -> Tensor:
    """Whether each keypoint of a pair is found by each block, (L, K) float."""
    pair, side, device = _annotation(file), settings.image_size, next(model.parameters()).device
    folder = root / "JPEGImages" / pair["category"]
    source, target = (squared(folder / pair[key], side) for key in ("src_imname", "trg_imname"))
    images = torch.stack([source, target]).float() / 255
    tokens = block_tokens(model, _normalised(images, declared, str(device)))
    points = placed(pair["src_kps"], pair["src_imsize"], side)
    truth = placed(pair["trg_kps"], pair["trg_imsize"], side)
    left, top, right, bottom = pair["trg_bndbox"]
    size = torch.tensor([max(right - left, bottom - top) * side / max(pair["trg_imsize"][:2])])
    return torch.stack(
        [
            tasks.found(
                tasks.transfer_keypoints(a[None], b[None], points[None].to(device), side).cpu(), truth[None], size,
                settings.alpha,
            )[0].float()
            for a, b in zip(*tokens, strict=True)
        ]
    )  # fmt: skip


def _annotation(file: Path) -> dict[str, Any]:
    """A pair of SPair-71k as its file has it.

    Raises:
        UserError: the file is damaged.
    """
    try:
        pair = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in _KEYS if key not in pair]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} cannot be read ({error}); restore it.") from None
    if missing:
        raise UserError(f"{file} has no {', '.join(missing)}; restore it as SPair-71k has it.")
    return pair


def squared(path: Path, side: int) -> Tensor:
    """A picture resized to a longer side of ``side`` pixels, in the middle of a black square, uint8 (3, side, side).

    Raises:
        UserError: it cannot be read.
    """
    try:
        picture = read_image(path, "RGB")
    except READ_ERRORS as error:
        raise UserError(f"{path} cannot be read ({error}); restore it.") from None
    width, height = _resized(picture.size, side)
    canvas = Image.new("RGB", (side, side))
    canvas.paste(picture.resize((width, height), Image.Resampling.LANCZOS), ((side - width) // 2, (side - height) // 2))
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)


def placed(points: list[list[float]], size: list[int], side: int) -> Tensor:
    """Keypoints (K, 2) of a picture of ``size`` (width, height, ...) in its square, see ``squared``."""
    width, height = _resized((size[0], size[1]), side)
    corner = torch.tensor([(side - width) // 2, (side - height) // 2])
    return torch.tensor(points, dtype=torch.float32) * side / max(size[:2]) + corner


def _resized(size: tuple[int, int], side: int) -> tuple[int, int]:
    longer = max(size)
    return round(size[0] * side / longer), round(size[1] * side / longer)
