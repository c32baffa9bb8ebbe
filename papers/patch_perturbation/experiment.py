"""The embedded experiment: the bench's hosts with one patch of their test images corrupted or attacked.

Patches have 4 pixels, as the tokens: one of 49, the share of an image that the release's 32 of 224 pixels are. Each
image has a patch of its own, drawn once, so that a mean over images is one over positions, too. An image whose
prediction changes is fooled, whatever its label is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common import bench
from common.training.recipe import Recipe
from papers.patch_perturbation.attention import patch_shares, tempered
from papers.patch_perturbation.method import PatchAttack, patch_masks, replaced, salient_positions

#: 20 steps, 16 of which cross the range of a pixel, where the release makes up to 10,000 steps of 2/255.
ATTACK = PatchAttack(size=bench.hosts.PATCH, step=16 / 255, steps=20)
SEVERITY = 5
#: Of the sweep; 1 is the attention as trained.
TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
STATES = ("clean", "corrupted", "attacked")
#: Images of a forward pass, and of a subset that attacks are made on.
BATCH = 250


def positions(count: int) -> Tensor:
    """The patch of each of ``count`` images, (count,)."""
    return torch.randint(49, (count,), generator=torch.Generator().manual_seed(0))


def corrupted_patches(quick: bool) -> tuple[Tensor, Tensor]:
    """Test images with a patch corrupted and without, (15, n, 3, 28, 28) in [0, 1]: a cell a corruption.

    The bench has made these cells of subsets in another order than the first fifteen; no two are of the same.
    """
    tests = bench.test_set(quick)
    cells = [cell for cell, (_, severity) in enumerate(bench.CORRUPTION_CELLS) if severity == SEVERITY]
    clean = torch.stack([tests.clean[cell % bench.SUBSETS] for cell in cells]).float() / 255
    corrupted = tests.corrupted[cells].float() / 255
    masks = patch_masks(clean[0], ATTACK.size, positions(clean.shape[1]))
    return replaced(clean, corrupted, masks), clean


def predictions(classifier: nn.Module, images: Tensor) -> Tensor:
    """Predicted classes (...) of images (..., 3, H, W)."""
    with torch.inference_mode():
        parts = [classifier(part).argmax(dim=1) for part in images.flatten(0, -4).split(BATCH)]
    return torch.cat(parts).view(images.shape[:-3])


def attacked(classifier: nn.Module, images: Tensor, *, salient: bool = False) -> tuple[Tensor, Tensor]:
    """Images (n, 3, H, W) with their patch attacked, or the most salient one; whether each is fooled (n,)."""
    labels = predictions(classifier, images)
    where = salient_positions(classifier, images, labels, ATTACK.size) if salient else positions(len(images))
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    return ATTACK(classifier, images, labels, where, noise)


def fooling(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """Accuracy; fooling rates by corrupted patches, all and by corruption, and by attacked ones, drawn and salient."""
    tests, classifier = bench.test_set(quick), bench.normalised(model, recipe)
    changed, clean = corrupted_patches(quick)
    corrupted = (predictions(classifier, changed) != predictions(classifier, clean)).numpy()
    images = tests.clean[0, :BATCH].float() / 255
    found: dict[str, np.ndarray | float] = {
        "top1": bench.correct(classifier, tests.clean, tests.labels),
        "patch_corruption_fooling": corrupted,
        "patch_attack_fooling": attacked(classifier, images)[1].numpy()[None],
        "salient_patch_attack_fooling": attacked(classifier, images, salient=True)[1].numpy()[None],
    }
    names = [name for name, severity in bench.CORRUPTION_CELLS if severity == SEVERITY]
    found |= {f"patch_corruption_fooling/{n}": float(c.mean()) for n, c in zip(names, corrupted, strict=True)}
    return found


def attention(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """Of a vision transformer: ``patch_attention`` by state; accuracy and fooling by attack at each temperature."""
    tests, classifier = bench.test_set(quick), bench.normalised(model, recipe)
    states = shown_states(classifier, quick, BATCH)
    found: dict[str, np.ndarray | float] = {"top1": bench.correct(classifier, tests.clean, tests.labels)}
    for state, shown in zip(STATES, states, strict=True):
        found[f"patch_attention/{state}"] = share_on_patch(classifier, shown).numpy()[None]
    for temperature in TEMPERATURES:
        with tempered(model, temperature):
            found[f"top1/{temperature:g}"] = bench.correct(classifier, tests.clean, tests.labels)
            found[f"patch_attack_fooling/{temperature:g}"] = attacked(classifier, states[0])[1].numpy()[None]
    return found


def shown_states(classifier: nn.Module, quick: bool, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first ``count`` images (n, 3, H, W) of a subset: clean, a patch under gaussian noise, and it attacked."""
    changed, clean = corrupted_patches(quick)
    images = clean[0, :count]
    return images, changed[0, :count], attacked(classifier, images)[0]


def share_on_patch(classifier: Any, images: Tensor) -> Tensor:
    """Share of the attention, by rollout, that the patch of each image has, (n,)."""
    places = positions(len(images))
    shares = patch_shares(classifier.model, normalise(classifier, images))
    return shares.flatten(1).gather(1, places[:, None])[:, 0]


def normalise(classifier: Any, images: Tensor) -> Tensor:
    """Images as the network behind ``classifier`` takes them."""
    return (images - classifier.mean) / classifier.std
