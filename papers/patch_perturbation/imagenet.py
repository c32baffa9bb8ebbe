"""Fooling rates at full scale, as released: every patch of 32 pixels of an image, corrupted and attacked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from common.checkpoints import taken_weights
from common.data.pixels import UnreadableImage
from common.data.preprocessing import Preprocessing
from common.errors import UserError
from common.measurement import Measurement
from common.progress import track
from common.robustness.benchmarks import benchmark
from common.robustness.corruptions import CORRUPTIONS, corrupt
from common.robustness.full_scale_measures import load_model
from common.robustness.normalisation import Normalized
from common.run import Run
from common.statistics import mean_interval
from papers.patch_perturbation.method import PatchAttack, patch_count, patch_masks, replaced

ATTACK = PatchAttack()
SEVERITY = 5
#: Pictures of a fixed random order that are measured without --limit: an attack on a patch may take 10,000 steps.
IMAGES = 100
METRICS = ("patch_corruption_fooling", "patch_attack_fooling")


def measure(run: Run, attack: PatchAttack = ATTACK) -> Iterator[Measurement]:
    """Fooling rates of the user's checkpoint: share of patches that change the prediction, mean over pictures.

    Raises:
        UserError: a picture cannot be read.
    """
    model, name, weights = load_model(run)
    declared, folder = Preprocessing.of(model), run.settings.folders["imagenet"]
    (stage,) = benchmark("imagenet", folder, declared).stages
    pictures = stage.read()
    choice = pictures.keep(run.settings.limit or IMAGES)
    classifier = Normalized(model, declared.mean, declared.std).to(run.settings.device).eval()
    rates = []
    for place in track(range(len(pictures)), "patches of ImageNet"):
        sample = pictures[place]
        if isinstance(sample, UnreadableImage):
            raise UserError(f"{sample.name} cannot be read ({sample.reason}); restore this file.")
        seed = int(pictures.rows[place])

        def compute(picture: Tensor = sample[1], seed: int = seed) -> list[float]:
            return _rates(classifier, picture.to(run.settings.device), seed, attack, run.settings.batch_size)

        rates.append(run.memo(f"patches {attack} {folder} {name} picture {seed}", compute))
    for metric, values in zip(METRICS, np.array(rates).T, strict=True):
        estimate = mean_interval(100 * values)
        protocol = f"{metric}/1 patches of {attack.size} pixels, severity {SEVERITY}, up to {attack.steps} steps"
        yield Measurement(
            model=name,
            dataset="imagenet-1k",
            metric=metric,
            value=estimate.value,
            unit="%",
            weights=weights,
            interval=estimate.interval,
            over="images" if estimate.interval else "",
            n=len(values),
            protocol="; ".join(filter(None, [protocol, str(declared), choice, taken_weights(model)])),
        )


def _rates(classifier: nn.Module, picture: Tensor, seed: int, attack: PatchAttack, batch: int) -> list[float]:
    """Share of the patches of a picture (3, H, W), uint8, that change its prediction: corrupted, attacked."""
    image = picture[None].float() / 255
    count = patch_count(image, attack.size)
    with torch.no_grad():
        label = classifier(image).argmax(dim=1)
    generator = torch.Generator().manual_seed(seed)
    corrupted, attacked = [], []
    for places in torch.arange(count, device=image.device).split(batch):
        images = image.expand(len(places), -1, -1, -1)
        masks = patch_masks(images, attack.size, places)
        for name in CORRUPTIONS:
            whole = corrupt(picture[None], name, SEVERITY, seeds=[seed]).float() / 255
            with torch.no_grad():
                corrupted.append(classifier(replaced(images, whole, masks)).argmax(dim=1) != label)
        noise = torch.rand(images.shape, generator=generator).to(image.device)
        attacked.append(attack(classifier, images, label.expand(len(places)), places, noise)[1])
    return [float(torch.cat(found).float().mean()) for found in (corrupted, attacked)]
