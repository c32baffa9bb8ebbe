"""How the claims on supervision are measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from common import bench
from common.bench.inference import findings
from common.measurement import Finding, Result
from common.run import Run
from papers.teaching_matters import attention as att
from papers.teaching_matters import full_scale, pictures
from papers.teaching_matters.experiment import BLOCKS, measure, within
from papers.teaching_matters.inside import attention_maps, block_tokens
from papers.teaching_matters.settings import released
from papers.teaching_matters.similarity import CKA
from papers.teaching_matters.supervision import CONTRAST, LABELS, RECONSTRUCTION, UNTRAINED, contenders
from papers.teaching_matters.tasks import agreement

__all__ = ["contenders"]

TRAINED = (LABELS, CONTRAST, RECONSTRUCTION)
#: The least of the three trained networks, and a head that gives half of its attention to one neighbour.
LEAST, HALF = "least_of_the_trained", "half_of_the_attention"
#: Images whose representations are compared.
COMPARED = 500


def _scores(run: Run) -> bench.Scores:
    """All four networks; trained and measured once for all claims."""
    return bench.scores(run, contenders(), measure)


def order(run: Run) -> Iterator[Result]:
    """Mean attention distance by block; its change from the first to the last is the order of local and global."""
    scores = _scores(run)
    blocks = [f"relative_attention_distance/{block}" for block in BLOCKS]
    yield from bench.measurements(scores, ("attention_distance_gain", *blocks))
    # Judged by what is inside, not by a classifier, as the bench would: two of the networks have learnt without labels.
    yield from findings(
        scores,
        f"{LABELS} > {RECONSTRUCTION}: attention_distance_gain",
        f"{CONTRAST} > {RECONSTRUCTION}: attention_distance_gain",
    )
    yield pictures.distances(scores, TRAINED)


def offset_heads(run: Run) -> Iterator[Result]:
    """What the head that gives most to one neighbour gives to it, in the network where it is least."""
    scores = _scores(run)
    yield from bench.measurements(scores, ("offset_attention", "head_offset"))
    together: dict[tuple[str, int], Mapping[str, np.ndarray]] = {}
    for seed in scores.seeds:
        given = {name: scores.values[name, seed]["offset_attention"] for name in (*TRAINED, UNTRAINED)}
        given |= {LEAST: np.min([given[name] for name in TRAINED]), HALF: np.array(0.5)}
        together |= {(name, seed): {"offset_attention": np.asarray(value)} for name, value in given.items()}
    yield from findings(
        bench.Scores(together), f"{LEAST} > {HALF}: offset_attention", f"{LEAST} > {UNTRAINED}: offset_attention"
    )
    heads = {name: _aligned_maps(run, name) for name in TRAINED}
    yield pictures.aligned_maps(heads)


def best_block(run: Run) -> Iterator[Result]:
    """Tasks on images and on parts of objects, block by block."""
    scores = _scores(run)
    metrics = ("knn_top1", "keypoint_pck", "attention_iou")
    by_block = bench.Scores(
        {
            (f"{name}.block_{block}", seed): {metric: values[f"{metric}/{block}"] for metric in metrics}
            for (name, seed), values in scores.values.items()
            for block in BLOCKS
        }
    )
    yield from bench.measurements(by_block, metrics)
    first, last = BLOCKS[0], BLOCKS[-1]
    yield from findings(
        by_block,
        f"{LABELS}.block_{first} > {LABELS}.block_{last}: keypoint_pck",
        f"{LABELS}.block_{last} > {LABELS}.block_{first}: knn_top1",
        f"{CONTRAST}.block_{first} > {CONTRAST}.block_{last}: keypoint_pck",
        f"{CONTRAST}.block_{last} > {CONTRAST}.block_{first}: knn_top1",
    )
    yield pictures.tasks(by_block, (*TRAINED, UNTRAINED))


def parts(run: Run) -> Iterator[Result]:
    """The same tasks and clusters, each network in its best block."""
    scores = _scores(run)
    purities = ("class_purity", "object_purity", "part_purity")
    yield from bench.measurements(
        scores, ("knn_top1", "patch_knn_top1", "retrieval_map", "keypoint_pck", "attention_iou", *purities)
    )
    yield from findings(
        scores, f"{CONTRAST} > {LABELS}: keypoint_pck", f"{CONTRAST} > {LABELS}: part_purity",
        f"{CONTRAST} = {LABELS}: knn_top1", f"{CONTRAST} > {LABELS}: attention_iou",
    )  # fmt: skip


def similarity(run: Run) -> Iterator[Result]:
    """CKA of the last blocks' patch tokens, for networks that were started by the same seed."""
    _scores(run)  # trains what is missing side by side
    names = [contender.name for contender in contenders()]
    values: dict[tuple[str, int], Mapping[str, np.ndarray]] = {}
    maps: list[Tensor] = []
    for seed in run.seeds():

        def compute(seed: int = seed) -> list[list[float]]:
            return _similarities(run, seed).tolist()

        whole = torch.tensor(run.memo(f"cka of the contenders' blocks, seed {seed}", compute), dtype=torch.float64)
        maps.append(whole)
        for (i, first), (j, second) in combinations(enumerate(names), 2):
            last = float(whole[(i + 1) * len(BLOCKS) - 1, (j + 1) * len(BLOCKS) - 1])
            values[_pair(first, second), seed] = {"cka": np.array(last)}
    scores = bench.Scores(values)
    yield from bench.measurements(scores)
    alike = _pair(CONTRAST, RECONSTRUCTION)
    yield from findings(
        scores, f"{alike} > {_pair(RECONSTRUCTION, UNTRAINED)}: cka", f"{alike} > {_pair(LABELS, RECONSTRUCTION)}: cka"
    )
    yield pictures.similarities(torch.stack(maps).mean(dim=0), names)


def _pair(first: str, second: str) -> str:
    """A name for two networks, without what they have in common."""
    short = [name.partition(".")[2] or "labels" for name in (first, second)]
    return "-".join(short)


@torch.inference_mode()
def _similarities(run: Run, seed: int) -> Tensor:
    """CKA of every block of every contender with every other, (contenders x blocks, contenders x blocks)."""
    images = bench.test_set(run.settings.quick).clean.flatten(0, 1)[:COMPARED]
    layers: list[Tensor] = []
    for contender in contenders():
        recipe = contender.settings(quick=run.settings.quick, epochs=run.settings.epochs)
        tokens = within(block_tokens, bench.trained(run, contender, seed), recipe, images)[:, :, 1:]
        layers += tokens.unbind(dim=1)
    similar = CKA()
    for batch in torch.arange(len(images)).split(released().cka_batch):
        if len(batch) == released().cka_batch:  # an incomplete batch would count as much as the others
            own = [layer[batch] for layer in layers]
            similar.add(own, own)
    return similar.value()


def _aligned_maps(run: Run, name: str) -> Tensor:
    """Attention by displacement (L, h, 13, 13) of the first seed's network."""
    (contender,) = (one for one in contenders() if one.name == name)
    recipe = contender.settings(quick=run.settings.quick, epochs=run.settings.epochs)
    model = bench.trained(run, contender, run.seeds()[0])
    return att.aligned(within(attention_maps, model, recipe, bench.test_set(run.settings.quick).clean[0]))


def instruments(run: Run) -> Iterator[Result]:
    """The instruments on attention and features whose answers are known."""
    side = 7
    pointed = pointing(side, down=0, right=1)
    given = float(att.offset_attention(pointed))
    right = float(att.offsets(att.aligned(pointed))[0, 0, 1])
    expected = (side - 1) / side / (side - 1)  # all but the last column have this neighbour, 1 / (g - 1) away
    even = torch.full_like(pointed, 1 / pointed.shape[-1])
    spread = float(att.offset_attention(even))
    errors = (abs(given - 1), abs(right - expected), abs(spread - 1 / side**2))
    yield Finding.exactly(
        "offset",
        "A head that gives all to the patch on the right is found, with its offset; even attention is no such head.",
        max(errors) < 1e-6,
        f"It gives {given:.6f} to one neighbour, its offset is {right:.6f} (expected {expected:.6f}); evenly spread "
        f"attention gives {spread:.6f}.",
        max(errors),
    )
    generator = torch.Generator().manual_seed(run.settings.seed)
    x = torch.randn(32, 12, generator=generator, dtype=torch.float64)
    turned, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64))
    similar = CKA()
    for rows in torch.arange(32).split(8):
        similar.add([x[rows]], [5 * x[rows] @ turned + 3, x[rows.flip(0)]])
    same, shuffled = similar.value()[0].tolist()
    yield Finding.exactly(
        "similarity",
        "CKA sees no rotation, scale or shift of features, and sees that images were exchanged.",
        abs(same - 1) < 1e-9 and shuffled < 0.9,
        f"{same:.9f} for the same features, turned, scaled and shifted; {shuffled:.3f} for those of other images.",
        abs(same - 1),
    )
    labels = np.repeat([3, 1, 4], 4)
    pure = agreement(labels, labels * 10)["purity"]
    one = agreement(labels, np.zeros(12, dtype=int))["purity"]
    yield Finding.exactly(
        "purity",
        "Clusters that are the classes have a purity of 1, and a single cluster has the largest class's share.",
        pure == 1 and one == 4 / 12,
        f"{pure:g} and {one:.6f}.",
        pure,
    )


def pointing(side: int, *, down: int, right: int) -> Tensor:
    """Attention (1, 1, 1, N, N) of a head that gives all to one neighbour, and to itself where that is outside."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inside = (rows + down >= 0) & (rows + down < side) & (columns + right >= 0) & (columns + right < side)
    own = rows * side + columns
    target = torch.where(inside, own + down * side + right, own).flatten()
    attention = torch.zeros(side**2 + 1, side**2 + 1)
    attention[0, 0] = 1
    attention[1 + own.flatten(), 1 + target] = 1
    return attention[None, None, None]


def imagenet_inside(run: Run) -> Iterator[Result]:
    """Attention and similarity of the blocks of the user's checkpoint on ImageNet."""
    yield from full_scale.inside(run)


def spair(run: Run) -> Iterator[Result]:
    """Correspondence of keypoints by block of the user's checkpoint, as released."""
    yield from full_scale.keypoints(run)
