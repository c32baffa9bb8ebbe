"""The embedded composition as data sets in COCO's and in ADE20K's own formats.

Garments of Fashion-MNIST on a canvas (:mod:`common.data.composition`) stand in for COCO and ADE20K where those are
not at hand. Everything that reads the originals reads these:

- COCO 2017: ``annotations/instances_{train,val}2017.json``, ``{train,val}2017/*.jpg``; masks as run-length encoding;
- ADE20K (ADEChallengeData2016): ``images/{training,validation}/*.jpg``, ``annotations/{training,validation}/*.png``,
  0 for not annotated (which does not occur), then the background as class 1 and garments from 2.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as run_lengths

from common.data import fashion_mnist
from common.data.composition import Background, Composition, compose
from common.files import write_atomic

#: Garments that differ in outline, so that little training tells them apart.
GARMENTS = ("Trouser", "Pullover", "Dress", "Bag", "Ankle boot")
#: Classes of the semantic maps.
SEMANTIC = ("background", *GARMENTS)

#: Name of the split in COCO and in ADE20K.
SPLITS = {"train": ("train2017", "training"), "val": ("val2017", "validation")}
_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class Canvases:
    """How the canvases are drawn; the same values give the same files.

    Attributes:
        train, val: number of canvases, drawn from Fashion-MNIST's training and test images.
        size: side in pixels.
        garments: fewest and most garments a canvas.
        seed: of all draws.
    """

    train: int = 1000
    val: int = 200
    size: int = 64
    garments: tuple[int, int] = (2, 4)
    seed: int = 0


def write(folder: Path, canvases: Canvases = Canvases()) -> tuple[Path, Path]:
    """Write the data sets below ``folder``, unless they are there already.

    Returns:
        The roots of the COCO and of the ADE20K data set.

    Raises:
        UserError: Fashion-MNIST is not there and cannot be fetched.
    """
    coco, ade20k = folder / "coco", folder / "ade20k"
    complete = folder / "complete.json"
    description = json.dumps(vars(canvases), sort_keys=True)
    if not (complete.exists() and complete.read_text(encoding="utf-8") == description):
        data = fashion_mnist.load_fashion_mnist()
        sources = {"train": (data.train_images, data.train_labels), "val": (data.test_images, data.test_labels)}
        for position, (split, (images, labels)) in enumerate(sources.items()):
            drawn = _draw(images, labels, canvases, getattr(canvases, split), canvases.seed * len(SPLITS) + position)
            _write_coco(coco, SPLITS[split][0], drawn)
            _write_ade20k(ade20k, SPLITS[split][1], drawn)
        names = "".join(f"{number}\t{name}\n" for number, name in enumerate(SEMANTIC, start=1))
        write_atomic(ade20k / "objectInfo150.txt", f"Idx\tName\n{names}")
        write_atomic(complete, description)
    return coco, ade20k


def _draw(images: torch.Tensor, labels: torch.Tensor, canvases: Canvases, count: int, seed: int) -> Composition:
    wanted = torch.tensor([fashion_mnist.CLASSES.index(name) for name in GARMENTS])
    ours = labels[:, None] == wanted
    chosen = ours.any(dim=1)
    return compose(
        images[chosen],
        ours[chosen].long().argmax(dim=1),
        count=count,
        generator=torch.Generator().manual_seed(seed),
        size=canvases.size,
        garments=canvases.garments,
        background=Background(noise=0.2),
    )


def _jpeg(canvas: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(canvas.numpy()).convert("RGB").save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _write_coco(root: Path, split: str, drawn: Composition) -> None:
    size = drawn.images.shape[-1]
    (root / split).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index, canvas in enumerate(drawn.images):
        name = f"{index + 1:012d}.jpg"
        (root / split / name).write_bytes(_jpeg(canvas))
        images.append({"id": index + 1, "file_name": name, "height": size, "width": size})
        for place in drawn.present[index].nonzero().flatten().tolist():
            mask = drawn.masks[index, place].numpy()
            x1, y1, x2, y2 = drawn.boxes[index, place].tolist()
            code = run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": int(drawn.labels[index, place]) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(mask.sum()),
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(GARMENTS, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_atomic(root / "annotations" / f"instances_{split}.json", json.dumps(content))


def _write_ade20k(root: Path, split: str, drawn: Composition) -> None:
    kind = {"training": "train", "validation": "val"}[split]
    for part in ("images", "annotations"):
        (root / part / split).mkdir(parents=True, exist_ok=True)
    for index, (canvas, semantic) in enumerate(zip(drawn.images, drawn.semantic, strict=True)):
        name = f"ADE_{kind}_{index + 1:08d}"
        (root / "images" / split / f"{name}.jpg").write_bytes(_jpeg(canvas))
        Image.fromarray((semantic + 1).to(torch.uint8).numpy()).save(root / "annotations" / split / f"{name}.png")
