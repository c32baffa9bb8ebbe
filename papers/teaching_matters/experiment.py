"""What is measured in each block of the bench's vision transformers.

Classes are told by k-NN and clusters of test images. Parts are told on canvases: each garment lies on two of them, at
another place and between other clutter, so that where a pixel of it went is known exactly, and so are masks. Numbers
of a block end in ``/BLOCK``, from 1, and of a head in ``/BLOCK.HEAD``. A metric by image without an end is that of the
block which is best on other images (those of the last cell); a number, such as a purity, is the largest of all blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common import bench
from common.data.composition import Background, Composition, place_on_canvas
from common.training.preparation import Preparation
from common.training.recipe import Recipe
from papers.teaching_matters import attention as att
from papers.teaching_matters import tasks
from papers.teaching_matters.inside import attention_maps, block_tokens
from papers.teaching_matters.settings import released

BLOCKS = (1, 2, 3)
#: Subsets of the test images; the last one chooses the block.
CELLS = 3
#: Labelled images of k-NN, a tenth of the training set, and keypoints of a garment.
LABELLED, KEYPOINTS = 6000, 8
GARMENT, CLUTTER = 20, Background(clutter=4)
SIDE = bench.hosts.SIDE
#: Images of a forward pass.
BATCH = 250


@lru_cache(maxsize=4)
def canvases(quick: bool, number: int) -> Composition:
    """Each test image of the cells on a canvas, (CELLS x n); ``number`` 0 or 1 for one of its two places."""
    tests = bench.test_set(quick)
    return place_on_canvas(
        tests.clean[:CELLS, :, 0].flatten(0, 1), tests.labels[:CELLS].flatten(), size=SIDE, side=GARMENT,
        background=CLUTTER, generator=torch.Generator().manual_seed(number),
    )  # fmt: skip


@lru_cache(maxsize=2)
def keypoints(quick: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of each garment on both canvases, (CELLS x n, KEYPOINTS, 2) as x and y, and the larger side of its box."""
    first, second = canvases(quick, 0), canvases(quick, 1)
    weights = first.masks[:, 0].flatten(1).float()
    drawn = torch.multinomial(weights, KEYPOINTS, replacement=True, generator=torch.Generator().manual_seed(2))
    source = torch.stack([drawn % SIDE, drawn // SIDE], dim=-1)
    moved = (second.boxes - first.boxes)[:, 0, None, :2].long()
    box = second.boxes[:, 0]
    return source, source + moved, torch.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])


def within(look: Callable[[nn.Module, Tensor], Tensor], model: nn.Module, recipe: Recipe, images: Tensor) -> Tensor:
    """What ``look`` (`attention_maps` or `block_tokens`) sees for uint8 images (N, 3, 28, 28) or (N, 28, 28)."""
    device = next(model.parameters()).device
    prepare = Preparation(recipe, device)
    images = images if images.ndim == 4 else images[:, None].expand(-1, 3, -1, -1)
    return torch.cat([look(model, prepare.normalise(part.to(device))).cpu() for part in images.split(BATCH)])


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """Everything but CKA, of ``model`` in eval mode.

    Returns:
        By image, (cells, n): ``top1``; ``relative_attention_distance/BLOCK`` and ``attention_distance_gain``, that of
        the last block less that of the first; ``attention_iou`` of the class token's best head with the garment;
        ``knn_top1`` and ``retrieval_map`` of the class token, ``patch_knn_top1`` of the mean patch; ``keypoint_pck``.
        Numbers: ``offset_attention`` and ``head_offset``, largest over heads; ``class_purity`` of class tokens,
        ``object_purity`` of the mean token of garments, ``part_purity`` of their quarters.
    """
    tests = bench.test_set(quick)
    found: dict[str, np.ndarray | float] = dict(bench.accuracy(model, recipe, quick))
    found |= _attention(within(attention_maps, model, recipe, tests.clean[0]))
    return found | _classes(model, recipe, quick) | _objects(model, recipe, quick)


def _attention(attention: Tensor) -> dict[str, np.ndarray | float]:
    """How far and which way heads look."""
    far = att.attention_distance(attention)
    by_image = far.mean(dim=2)
    found: dict[str, np.ndarray | float] = {"attention_distance_gain": (by_image[:, -1] - by_image[:, 0]).numpy()[None]}
    found |= {f"relative_attention_distance/{block}": by_image[:, block - 1].numpy()[None] for block in BLOCKS}
    heads = {
        "relative_attention_distance": far.mean(dim=0),
        "offset_attention": att.offset_attention(attention),
        "head_offset": att.offsets(att.aligned(attention)).norm(dim=-1),
    }
    for name in ("offset_attention", "head_offset"):
        found[name] = float(heads[name].max())
    for name, values in heads.items():
        found |= {
            f"{name}/{block}.{head}": float(value)
            for block, row in enumerate(values, 1)
            for head, value in enumerate(row, 1)
        }
    return found


def _classes(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """What class and mean patch tokens of each block know of the class."""
    tests, (images, labels) = bench.test_set(quick), bench.training_data().train
    labels = labels[:LABELLED]
    train = _pooled(model, recipe, images[:LABELLED])
    asked = tests.labels[:CELLS]
    vote = partial(tasks.nearest_neighbours, k=released().neighbours, temperature=released().temperature)
    test = _pooled(model, recipe, tests.clean[:CELLS].flatten(0, 1))
    truth = asked.flatten()
    by_image: dict[str, list[Tensor]] = {"knn_top1": [], "patch_knn_top1": [], "retrieval_map": []}
    numbers: dict[str, np.ndarray | float] = {}
    for block in BLOCKS:
        (own, own_patches), (given, given_patches) = ([kind[:, block - 1] for kind in one] for one in (train, test))
        by_image["knn_top1"].append(vote(own, labels, given) == truth)
        by_image["patch_knn_top1"].append(vote(own_patches, labels, given_patches) == truth)
        by_image["retrieval_map"].append(tasks.average_precision(given, truth, own, labels))
        clusters = tasks.cluster(given.numpy(), bench.hosts.CLASSES)
        numbers[f"class_purity/{block}"] = tasks.agreement(truth.numpy(), clusters)["purity"]
    return _by_block(by_image, len(asked)) | _largest("class_purity", numbers)


def _pooled(model: nn.Module, recipe: Recipe, images: Tensor) -> tuple[Tensor, Tensor]:
    """Class tokens and mean patch tokens, (N, blocks, C) each."""
    parts = [within(block_tokens, model, recipe, part) for part in images.split(BATCH)]
    return torch.cat([one[:, :, 0] for one in parts]), torch.cat([one[:, :, 1:].mean(dim=2) for one in parts])


def _objects(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """What is known of garments: masks by attention, where their pixels went, clusters of them and of their parts."""
    first, second = canvases(quick, 0), canvases(quick, 1)
    attention = within(attention_maps, model, recipe, first.images)
    tokens_of_first, tokens_of_second = (within(block_tokens, model, recipe, one.images) for one in (first, second))
    source, target, size = keypoints(quick)
    masks, labels = first.masks[:, 0], first.labels[:, 0]
    # Where most of a token's pixels belong to the garment; the grid of tokens has 7 places on a side.
    objects = nn.functional.adaptive_avg_pool2d(masks[:, None].float(), SIDE // bench.hosts.PATCH)[:, 0] >= 0.5
    settings = released()
    covered, of_part = objects.any(dim=(1, 2)), quarters(objects)
    by_image: dict[str, list[Tensor]] = {"attention_iou": [], "keypoint_pck": []}
    numbers: dict[str, np.ndarray | float] = {}
    parted: dict[str, np.ndarray | float] = {}
    for block in BLOCKS:
        kept = att.attention_masks(attention[:, block - 1], "class", settings.attention_mass)
        by_image["attention_iou"].append(att.iou(kept, objects[:, None]).amax(dim=1))
        tokens, other = tokens_of_first[:, block - 1], tokens_of_second[:, block - 1]
        right = [
            tasks.found(tasks.transfer_keypoints(a, b, points, SIDE), truth, large, settings.alpha)
            for a, b, points, truth, large in zip(
                *(every.split(BATCH) for every in (tokens, other, source, target, size)), strict=True
            )
        ]
        by_image["keypoint_pck"].append(torch.cat(right).float().mean(dim=1))
        patches = tokens[:, 1:]
        segments = _means(patches[covered], objects[covered][:, None])[:, 0]
        clusters = tasks.cluster(segments.numpy(), bench.hosts.CLASSES)
        numbers[f"object_purity/{block}"] = tasks.agreement(labels[covered].numpy(), clusters)["purity"]
        whole = of_part.any(dim=(2, 3)).all(dim=1)
        parts = _means(patches[whole], of_part[whole]).flatten(0, 1)
        which = (4 * labels[whole, None] + torch.arange(4)).flatten()
        clusters = tasks.cluster(parts.numpy(), 4 * bench.hosts.CLASSES)
        parted[f"part_purity/{block}"] = tasks.agreement(which.numpy(), clusters)["purity"]
    return _by_block(by_image, CELLS) | _largest("object_purity", numbers) | _largest("part_purity", parted)


def quarters(objects: Tensor) -> Tensor:
    """The quarters of objects (B, g, g), divided in the middle of their boxes, (B, 4, g, g); all bool."""
    line = torch.arange(objects.shape[-1])
    rows, columns = objects.any(dim=2), objects.any(dim=1)
    sides: list[tuple[Tensor, Tensor]] = []
    for there in (rows, columns):
        lowest = torch.where(there, line, objects.shape[-1]).amin(dim=1)
        highest = torch.where(there, line, -1).amax(dim=1)
        before = 2 * line < (lowest + highest + 1)[:, None]
        sides.append((before, ~before))
    quartered = [objects & down[:, :, None] & across[:, None] for down in sides[0] for across in sides[1]]
    return torch.stack(quartered, dim=1)


def _means(patches: Tensor, masks: Tensor) -> Tensor:
    """Mean of the patches (B, g * g, C) in each of the masks (B, M, g, g), (B, M, C)."""
    weights = masks.flatten(2).float()
    return weights @ patches / weights.sum(dim=2, keepdim=True)


def _by_block(by_image: Mapping[str, list[Tensor]], cells: int) -> dict[str, np.ndarray | float]:
    """Values (cells x n) of each block, and of the one that is best in the last cell, without that cell."""
    found: dict[str, np.ndarray | float] = {}
    for name, values in by_image.items():
        blocks = [value.float().unflatten(0, (cells, -1)).numpy() for value in values]
        best = max(blocks, key=lambda block: float(block[-1].mean()))
        found |= {name: best[:-1], **{f"{name}/{n}": block[:-1] for n, block in zip(BLOCKS, blocks, strict=True)}}
    return found


def _largest(name: str, by_block: Mapping[str, Any]) -> dict[str, np.ndarray | float]:
    return {name: max(by_block.values()), **by_block}
