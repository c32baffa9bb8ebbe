"""The embedded experiment: garments that passed the bench's distorted autoencoder, and four kinds of shift.

Shifts stand in for the paper's: corruption for ImageNet-C, textures' styles for ImageNet-R, a garment's place and size
and what covers it for DeepFashion Remixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from common import bench
from common.bench import autoencoder, stylised, textures
from common.bench.stored import check_sum, stored
from common.data.composition import Background, place_on_canvas
from common.training.data import TensorData
from common.training.recipe import Recipe
from papers.imagenet_r import distortions, draws
from papers.imagenet_r.draws import Draws

#: Metrics of the shifts.
SHIFTS = ("corruption_top1", "stylised_top1", "occlusion_top1", "placement_top1")
#: Images that pass the same distorted network.
GROUP = 50
SHARES = 20
#: The autoencoder's convolutions, and the weight distortions of the release's list that fit any network.
LAYERS = ("encoder.2", "encoder.4", "decoder.0", "decoder.3")
#: Side of a garment on its canvas, in pixels, and subsets of the test images that are put on canvases.
PLACED_SIDE, CELLS = 20, 4


@lru_cache(maxsize=1)
def deepaugmented() -> TensorData:
    """The bench's training garments, and each of them distorted (of both, a training sees half as many each)."""
    data = bench.training_data()
    autoencoder.autoencoder()  # trained before, not by every process
    sources = (__file__, distortions.__file__, draws.__file__, autoencoder.__file__, textures.__file__)
    made = stored("deepaugmented-training", check_sum(*sources), _share, SHARES)
    images, labels = data.train
    both = torch.cat([images, made[:, None].expand(-1, 3, -1, -1)])
    return TensorData(both, labels.repeat(2), *data.validation)


def _share(share: int) -> Tensor:
    images = bench.training_data().train[0][:, 0].tensor_split(SHARES)[share]
    groups = images.split(GROUP)
    return torch.cat([distorted(group, Draws(share * len(images) + number)) for number, group in enumerate(groups)])


def distorted(images: Tensor, draws: Draws) -> Tensor:
    """Grey images (N, H, W) uint8 that passed the autoencoder with a distortion of weights and one of features."""
    network = autoencoder.autoencoder()
    state = dict(network.state_dict())
    distortions.OF_CAE[draws.integer(0, distortions.DRAWN_OF_CAE - 1)](state, LAYERS, draws)
    change = draws.choice((*distortions.CAE_CODE, None))
    with torch.inference_mode():
        pixels = images[:, None].float() / 255
        encoder = {name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")}
        decoder = {name.removeprefix("decoder."): t for name, t in state.items() if name.startswith("decoder.")}
        code = functional_call(network.encoder, encoder, (pixels,))
        made = functional_call(network.decoder, decoder, (code if change is None else change(code, draws),))
    return _with_range(made[:, 0])


def _with_range(images: Tensor) -> Tensor:
    """Images of any range as bytes: where a distortion has left [0, 1], the range is pressed into it."""
    low, high = images.amin(dim=(1, 2), keepdim=True).clamp(max=0), images.amax(dim=(1, 2), keepdim=True).clamp(min=1)
    return autoencoder.to_bytes((images - low) / (high - low))


@lru_cache(maxsize=2)
def placed(quick: bool) -> tuple[Tensor, Tensor]:
    """Test garments, smaller and elsewhere on a black canvas: (CELLS, n, 3, 28, 28) uint8, and labels (CELLS, n)."""
    tests = bench.test_set(quick)
    garments, labels = tests.clean[:CELLS, :, 0], tests.labels[:CELLS]
    canvases = place_on_canvas(
        garments.flatten(0, 1), labels.flatten(), size=bench.hosts.SIDE, side=PLACED_SIDE, background=Background(),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return canvases.images[:, None].repeat(1, 3, 1, 1).unflatten(0, labels.shape), labels


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> Mapping[str, np.ndarray | float]:
    """Accuracy on clean images and under each of `SHIFTS`, by image; corruptions by cell as well."""
    tests, classifier = bench.test_set(quick), bench.normalised(model, recipe)
    right = bench.correct(classifier, tests.corrupted, tests.labels_of(len(bench.CORRUPTION_CELLS)))
    cells = {
        f"corruption_top1/{name}/{severity}": float(cell.mean())
        for (name, severity), cell in zip(bench.CORRUPTION_CELLS, right, strict=True)
    }
    occluded = bench.correct(classifier, tests.occluded, tests.labels_of(len(bench.OCCLUSION_SHARES)))
    return {
        "top1": bench.correct(classifier, tests.clean, tests.labels),
        "corruption_top1": right,
        **cells,
        "stylised_top1": bench.correct(classifier, *stylised.test_images(quick)),
        "occlusion_top1": occluded,
        "placement_top1": bench.correct(classifier, *placed(quick)),
    }
