"""Fashion-MNIST in five tasks of two classes: a small learner, and what is measured of it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common import bench
from common.training.recipe import Recipe, load_recipe
from papers.vit_continual.learner import Learner
from papers.vit_continual.model import EarlyConvViT, SelfAttention
from papers.vit_continual.tasks import TaskByTask
from papers.vit_continual.training import tasks_of

RECIPE = Path(__file__).with_name("recipe.toml")
#: 49 tokens, three blocks of three heads, as the bench's host has.
SIZES: dict[str, Any] = {
    "img_size": 28, "num_classes": 0, "embed_dim": 48, "depth": 3, "num_heads": 3, "head_dim": 16, "mlp_dim": 96,
}  # fmt: skip


def learner() -> Learner:
    """EarlyConvViT with a head for each task, and with the bench's stem, which lets it learn within the budget."""
    backbone = EarlyConvViT(**SIZES, stem=stem)
    # Only the first rows of the table are read; noise of size 1 would hide features of 48 channels.
    for table in (backbone.pos_embed, backbone.cls_token):
        nn.init.normal_(table, std=0.02)
    bench.hosts.initialise(backbone)
    for attention in (module for module in backbone.modules() if isinstance(module, SelfAttention)):
        attention.proj.reset_parameters()  # as in vit_mini: a class token has nothing but attention to gather with
    return Learner(backbone, tasks_of(load_recipe(RECIPE, "embedded")))


def stem(in_chans: int, dim: int) -> nn.Module:
    """The bench's stem."""
    return bench.hosts.Stem(in_chans=in_chans, embed_dim=dim)


@lru_cache(maxsize=1)
def in_tasks() -> TaskByTask:
    """The bench's training images, task by task."""
    return TaskByTask(bench.training_data(), tasks_of(load_recipe(RECIPE, "embedded")))


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """How a learner does, on the bench's test images; all arrays are of right (1) and wrong (0), or their difference.

    ``average_top1``: after the last task, among all classes. ``task_aware_top1``: the same among the classes of the
    image's own task. ``new_task_top1``: as that, right after the task was learnt (plasticity). ``forgetting``: what is
    lost at the end of a task's best task-aware accuracy so far, without the last task.
    """
    assert isinstance(model, Learner)
    tests, tasks = bench.test_set(quick), model.tasks
    labels = tests.labels
    own = tasks.of_class[labels]
    known, right = [], []
    for task in range(len(tasks)):
        model.recall(task)
        logits = _logits(model, recipe, tests.clean)
        right.append((logits.argmax(dim=2) == labels).numpy().astype(float))
        masked = logits.masked_fill(own[..., None] != tasks.of_class, -torch.inf)
        known.append((masked.argmax(dim=2) == labels).numpy().astype(float))
    then = np.stack(known)  # (tasks, subsets, images)
    new = np.take_along_axis(then, own.numpy()[None], axis=0)[0]
    lost = np.zeros_like(new)
    for task in range(len(tasks) - 1):
        of_task = (own == task).numpy()
        best = max(range(task, len(tasks) - 1), key=lambda t: then[t][of_task].mean())
        lost[of_task] = then[best][of_task] - then[-1][of_task]
    earlier = (own < len(tasks) - 1).numpy()
    return {
        "average_top1": right[-1],
        "task_aware_top1": then[-1],
        "new_task_top1": new,
        "forgetting": lost[earlier].reshape(len(labels), -1),
    }


@torch.inference_mode()
def _logits(model: nn.Module, recipe: Recipe, images: Tensor) -> Tensor:
    """Logits (subsets, n, classes) of uint8 images (subsets, n, 3, 28, 28), on the CPU."""
    classifier = bench.normalised(model, recipe)
    device = next(model.parameters()).device
    found = [
        classifier(part.to(device).float() / 255).cpu() for part in images.flatten(0, 1).split(bench.measures.BATCH)
    ]
    return torch.cat(found).unflatten(0, images.shape[:2])
