"""The two tokens of a distilled network: its heads, how alike the tokens are, and the control with two class tokens.

Networks are timm's ``VisionTransformerDistilled``, whose first token is the class token, whose second is the
distillation token. Axes: B images, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import bench
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe

#: What becomes of the logits of the two heads, (B, classes) each: the ways to classify an image.
CLASSIFIERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "both": lambda first, second: (first + second) / 2,  # as released
    "softmax": lambda first, second: first.softmax(dim=1) + second.softmax(dim=1),  # as published
    "class": lambda first, second: first,
    "distillation": lambda first, second: second,
}


class SecondClassToken(Hook):
    """The control: the second token learns the labels as the first does, each with half of the loss."""

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Have the model return the outputs of both its heads in training."""
        model.set_distilled_training(True)  # type: ignore[operator]

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Return the mean over the heads."""
        return (loss + run.criterion(batch.outputs[1], batch.targets)) / 2


def second_class_token(recipe: Recipe) -> tuple[Hook, ...]:
    """The hooks of the control."""
    return (SecondClassToken(),)


def forward(model: Any, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits of the class head and of the distillation head, (B, classes), and the cosine of their tokens by depth.

    The cosines are (B,) each: of the tokens as the first block takes them (learned, with their positions, the same for
    every image), then after each block.
    """
    final, blocks = model.forward_intermediates(x, return_prefix_tokens=True, output_fmt="NLC")
    learned = torch.cat([model.cls_token, model.dist_token], dim=1) + model.pos_embed[:, :2]
    pairs = [learned.expand(len(x), -1, -1), *(prefix for _, prefix in blocks)]
    cosines = [F.cosine_similarity(pair[:, 0], pair[:, 1], dim=1) for pair in pairs]
    return model.head(final[:, 0]), model.head_dist(final[:, 1]), cosines


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray]:
    """Top-1 accuracy by each of `CLASSIFIERS` and ``token_cosine`` by depth, on all test images.

    ``top1`` is that of both heads together; the others are called ``top1/CLASSIFIER``, cosines ``token_cosine/DEPTH``.
    """
    tests = bench.test_set(quick)
    with torch.inference_mode():
        parts = [forward(model, x) for x in _batches(model, recipe, tests.clean)]
    first, second = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    right = {
        name: (decide(first, second).argmax(dim=1).view(tests.labels.shape) == tests.labels).numpy()
        for name, decide in CLASSIFIERS.items()
    }
    depths = [torch.cat(list(at)).view(tests.labels.shape).numpy() for at in zip(*(p[2] for p in parts), strict=True)]
    return {
        "top1": right["both"],
        **{f"top1/{name}": values for name, values in right.items()},
        **{f"token_cosine/{depth}": values for depth, values in enumerate(depths)},
    }


def decisions(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray]:
    """The class of every test image, (subsets, n), by each of `CLASSIFIERS`; ``both`` alone where there is one head."""
    tests = bench.test_set(quick)
    two = hasattr(model, "head_dist")
    found: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for x in _batches(model, recipe, tests.clean):
            if two:
                first, second, _ = forward(model, x)
                logits = {name: decide(first, second) for name, decide in CLASSIFIERS.items()}
            else:
                logits = {"both": model(x)}
            for name, of in logits.items():
                found.setdefault(name, []).append(of.argmax(dim=1))
    return {name: torch.cat(classes).view(tests.labels.shape).numpy() for name, classes in found.items()}


def _batches(model: nn.Module, recipe: Recipe, images: Tensor) -> Iterator[Tensor]:
    """Normalised images (B, 3, H, W) on the model's device, of uint8 images (subsets, n, 3, H, W)."""
    device = next(model.parameters()).device
    mean, std = (torch.tensor(bench.per_channel(v), device=device).view(1, 3, 1, 1) for v in (recipe.mean, recipe.std))
    for part in images.flatten(0, 1).split(250):
        yield (part.to(device).float() / 255 - mean) / std
