"""Do a model's tokens group into objects? Spectral clusters of tokens against the objects of a composition.

The publication motivates attention over channels by the emerging visual grouping of vision transformers: clusters of
tokens resemble objects. Here the objects are known. Models are those trained on single garments; they see canvases
with two garments and clutter, and their tokens are clustered into three groups by the normalised cut of an affinity
graph (Shi and Malik, "Normalized Cuts and Image Segmentation", 2000). The agreement with the objects is the adjusted
Rand index: 100 % for the same grouping, 0 in expectation for a random one. Clusters of the pixels of a patch and those
of an untrained model's tokens stand beside it: what a grouping must beat to have emerged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from common import bench, figures
from common.bench.inference import measurements
from common.data.composition import Background, Composition, compose
from common.data.fashion_mnist import MEAN, STD, load_fashion_mnist
from common.measurement import Measurement, Picture, Result
from common.run import Run
from common.training.recipe import Recipe
from common.verdicts import mean_measurement

DATASET = "fashion-mnist-scenes"
METRIC = "grouping_ari"
PROTOCOL = "grouping/2 normalised cut of token affinity into 3 clusters, canvases of 56 pixels, 2 garments"
PATCH = 4
CLUSTERS = 3
#: Canvases that are measured on; quick: so many.
COUNT, QUICK_COUNT = 200, 10
#: Subsets of the bench's test images that tell whether a network has learnt.
CELLS = 2
#: Added to affinities, so that the graph is connected.
FLOOR = 1e-3


@lru_cache(maxsize=2)
def scenes(count: int) -> Composition:
    """Canvases of 56x56 pixels with two garments of the test set and clutter behind them."""
    data = load_fashion_mnist()
    generator = torch.Generator().manual_seed(0)
    return compose(
        data.test_images, data.test_labels, count=count, generator=generator, garments=(2, 2),
        background=Background(clutter=8),
    )  # fmt: skip


def inputs(composition: Composition) -> Tensor:
    """The canvases as a model sees them: (N, 3, H, W)."""
    return (composition.images[:, None].repeat(1, 3, 1, 1).float() / 255 - MEAN) / STD


def objects(composition: Composition) -> np.ndarray:
    """Which object most of each token's pixels belong to, 0 for none: (N, tokens)."""
    masks = composition.masks.float()
    shares = F.avg_pool2d(torch.cat([1 - masks.sum(dim=1, keepdim=True), masks], dim=1), PATCH)
    return shares.argmax(dim=1).flatten(1).numpy()


def clusters(tokens: Tensor) -> np.ndarray:
    """Spectral clusters of the tokens (N, C) of one image, from the cosine similarity of their deviations."""
    tokens = F.normalize(tokens.double() - tokens.double().mean(dim=0), dim=1)
    affinity = (tokens @ tokens.T).clamp(min=0) + FLOOR
    model = SpectralClustering(CLUSTERS, affinity="precomputed", assign_labels="cluster_qr", random_state=0)
    return model.fit_predict(affinity.numpy())


def grouped(tokens: Tensor) -> list[np.ndarray]:
    """Clusters of every image's tokens: (N, C, H, W) to N arrays of H * W numbers."""
    return [clusters(image) for image in tokens.flatten(2).transpose(1, 2)]


def agreement(groups: Sequence[np.ndarray], truth: np.ndarray) -> np.ndarray:
    """Adjusted Rand index of clusters with objects by image, (N,)."""
    return np.array([adjusted_rand_score(t, g) for t, g in zip(truth, groups, strict=True)])


def pixel_tokens(composition: Composition) -> Tensor:
    """The pixels of each patch: (N, PATCH * PATCH, H, W)."""
    return F.pixel_unshuffle(composition.images[:, None].float(), PATCH)


@torch.inference_mode()
def block_tokens(model: nn.Module, images: Tensor, device: str) -> list[Tensor]:
    """Tokens (N, C, H, W) after each block."""
    blocks = list(range(len(model.blocks)))
    parts = [
        model.forward_intermediates(part.to(device), indices=blocks, intermediates_only=True)
        for part in images.split(50)
    ]
    return [torch.cat([part[block].cpu() for part in parts]) for block in blocks]


def grouping(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray]:
    """Agreement of the last block's clusters by canvas, (1, n); ``top1`` on single garments."""
    composition, tests = scenes(QUICK_COUNT if quick else COUNT), bench.test_set(quick)
    device = str(next(model.parameters()).device)
    tokens = block_tokens(model, inputs(composition), device)[-1]
    return {
        "top1": bench.correct(bench.normalised(model, recipe), tests.clean[:CELLS], tests.labels[:CELLS]),
        METRIC: agreement(grouped(tokens), objects(composition))[None],
    }


def measure(run: Run, contenders: Sequence[bench.Contender], *, attention: str, mlp: str) -> Iterator[Result]:
    """Measurements, the finding, and a picture.

    Args:
        run: the run.
        contenders: what is measured.
        attention, mlp: the contenders with channel attention and with a plain MLP.
    """
    scores = bench.scores(run, contenders, grouping)
    yield from measurements(scores, (METRIC,), dataset=DATASET, protocol=PROTOCOL)
    composition = scenes(QUICK_COUNT if run.settings.quick else COUNT)
    pixels = agreement(grouped(pixel_tokens(composition)), objects(composition))
    shared = {"dataset": DATASET, "metric": METRIC, "unit": "%", "n": len(pixels), "protocol": PROTOCOL}
    yield Measurement(model="pixels", value=100 * float(pixels.mean()), **shared)
    of = {contender.name: contender for contender in contenders}
    recipe, untrained = of[attention].settings(quick=run.settings.quick), []
    for seed in run.seeds():
        torch.manual_seed(seed)
        model = of[attention].build().to(run.settings.device).eval()
        untrained.append(100 * float(grouping(model, recipe, run.settings.quick)[METRIC].mean()))
    yield mean_measurement(untrained, model=f"{attention}.untrained", **shared)
    yield from bench.findings(scores, f"{attention} > {mlp}: {METRIC}")
    shown = (attention, mlp)
    yield picture({name: bench.trained(run, of[name], run.settings.seed) for name in shown}, run.settings.device)


def picture(models: Mapping[str, nn.Module], device: str, shown: int = 4) -> Picture:
    """The first canvases, their objects, clusters of pixels, and clusters of each model's tokens after each block."""
    composition = scenes(shown)
    side = composition.images.shape[-1] // PATCH
    columns = {"objects": list(objects(composition)), "pixels": grouped(pixel_tokens(composition))}
    for name, model in models.items():
        for block, tokens in enumerate(block_tokens(model, inputs(composition), device), start=1):
            columns[f"{name}\nblock {block}"] = grouped(tokens)
    with figures.figure("grouping", width=1.15 * (len(columns) + 1), height=1.15 * shown + 0.4) as drawn:
        axes = drawn.subplots(shown, len(columns) + 1)
        for index, row in enumerate(axes):
            row[0].imshow(composition.images[index].numpy(), cmap="gray")
            for axis, groups in zip(row[1:], columns.values(), strict=True):
                axis.imshow(groups[index].reshape(side, side), cmap="viridis", interpolation="nearest")
            for axis in row:
                axis.set_xticks([])
                axis.set_yticks([])
        for axis, title in zip(axes[0], ["image", *columns], strict=True):
            axis.set_title(title, fontsize=7)
        svg = figures.to_svg(drawn)
    return Picture(
        name="grouping",
        caption=(
            f"The first {shown} canvases: image, objects, and three spectral clusters of pixels and of tokens after "
            "each block (first seed). Colours only tell clusters apart."
        ),
        svg=svg,
    )
