"""The class-incremental protocol: classes come in tasks, and a model is asked about all of them.

A learner sees the images of one task after another and none twice (van de Ven and Tolias, "Three scenarios for
continual learning", arXiv 1904.07734, call the scenario class-incremental). Its accuracies after each task on the
images of each task are a matrix, of which all that is told is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.training.data import Plan, TensorData, augment
from common.training.randomness import generator
from common.training.recipe import Recipe


@dataclass(frozen=True)
class Tasks:
    """Which classes come together, in the order in which they come.

    Attributes:
        classes: of each task.

    Raises:
        UserError: a class is in no task or in two, or a task has none.
    """

    classes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        every = sorted(one for task in self.classes for one in task)
        if every != list(range(len(every))) or not all(self.classes):
            raise UserError(
                f"Tasks share out the classes from 0 on, each once and none empty; these are {self.classes}."
            )

    @classmethod
    def of(cls, num_classes: int, first: int, increment: int, order: str = "") -> Tasks:
        """Tasks of ``first`` classes and then of ``increment`` at a time, in the order of the numbers in ``order``.

        Raises:
            UserError: the classes cannot be shared out so, or the order is none of all of them.
        """
        if not 0 < first <= num_classes or increment < 1 or (num_classes - first) % increment:
            raise UserError(
                f"{num_classes} classes cannot be shared out as {first} at first and then {increment} at a time: set "
                "method.first_classes and method.classes_per_task."
            )
        if order and not order.replace(" ", "").isdigit():
            raise UserError(f"method.class_order has numbers of classes between spaces, not {order!r}.")
        numbers = [int(word) for word in order.split()] or list(range(num_classes))
        if sorted(numbers) != list(range(num_classes)):
            raise UserError(f"method.class_order names each of the {num_classes} classes once, not {order!r}.")
        starts = [0, *range(first, num_classes, increment), num_classes]
        return cls(tuple(tuple(numbers[a:b]) for a, b in pairwise(starts)))

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def num_classes(self) -> int:
        """Classes of all tasks."""
        return sum(map(len, self.classes))

    @cached_property
    def of_class(self) -> Tensor:
        """The task of each class, (num_classes,)."""
        return torch.tensor(
            [next(t for t, own in enumerate(self.classes) if c in own) for c in range(self.num_classes)]
        )

    @cached_property
    def place_in_task(self) -> Tensor:
        """The place of each class among those of its task, (num_classes,)."""
        return torch.tensor([self.classes[int(t)].index(c) for c, t in enumerate(self.of_class)])


class TaskByTask(TensorData):
    """Images in memory that come task by task, to be trained on by `papers.vit_continual.training.ClassIncremental`.

    The steps of a training are shared out by the tasks' numbers of images: a recipe of E epochs shows each task's
    images E times before the next task begins.

    Args:
        data: all images.
        tasks: how its classes are shared out.

    Raises:
        UserError: they are of other classes, or a task has no image.
    """

    def __init__(self, data: TensorData, tasks: Tasks) -> None:
        super().__init__(*data.train, *data.validation, data.num_classes)
        if tasks.num_classes != data.num_classes:
            raise UserError(f"The tasks have {tasks.num_classes} classes, the images {data.num_classes}.")
        self.tasks = tasks
        self._members = [torch.isin(self.train[1], torch.tensor(own)).nonzero()[:, 0] for own in tasks.classes]
        if empty := [str(task) for task, members in enumerate(self._members) if not len(members)]:
            raise UserError(f"There is no image of any class of task {', '.join(empty)}; give data of all tasks.")

    def describe(self) -> dict[str, Any]:
        """What identifies the data, and its tasks."""
        return super().describe() | {"tasks": [list(own) for own in self.tasks.classes]}

    def bounds(self, steps: int) -> list[int]:
        """The step at which each task begins, of so many, and their number."""
        shares = torch.tensor([0, *map(len, self._members)]).cumsum(0) / len(self.train[1])
        return [round(float(share) * steps) for share in shares]

    def training_batches(
        self, recipe: Recipe, plan: Plan, epoch: int, first_step: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the passes of this process, each of one task's images, which are shuffled anew when all were shown.

        Raises:
            UserError: there are too few steps for every task to have one.
        """
        images, labels = (tensor.to(plan.device) for tensor in self.train)
        steps = self.steps_per_epoch(recipe)
        bounds = self.bounds(steps * recipe.total_epochs)
        if any(a == b for a, b in pairwise(bounds)):
            raise UserError(
                f"{bounds[-1]} steps are too few for {len(self.tasks)} tasks of these sizes: set more epochs or a "
                "smaller total_batch."
            )
        for within in range(first_step, steps):
            step = epoch * steps + within
            task = max(t for t in range(len(self.tasks)) if bounds[t] <= step)
            chosen = self._indices(task, (step - bounds[task]) * recipe.total_batch, recipe.total_batch, plan.seed)
            index = chosen[plan.rank :: plan.world].to(plan.device)
            batch = augment(images[index], recipe, plan, epoch, within)
            yield from zip(batch.split(plan.device_batch), labels[index].split(plan.device_batch), strict=True)

    def _indices(self, task: int, first: int, count: int, seed: int) -> Tensor:
        """The images from number ``first`` on of a task's stream, which is one shuffled pass after another."""
        members = self._members[task]
        wanted = torch.arange(first, first + count)
        chosen = torch.empty(count, dtype=torch.long)
        for turn in range(int(wanted[0]) // len(members), int(wanted[-1]) // len(members) + 1):
            order = members[torch.randperm(len(members), generator=generator(seed, "task", task, turn))]
            here = wanted // len(members) == turn
            chosen[here] = order[wanted[here] % len(members)]
        return chosen


def forgetting(accuracies: Sequence[Sequence[float]]) -> float:
    """How much of its best accuracy each task but the last has lost when all are learnt, mean over tasks.

    Args:
        accuracies: row t after task t, column u on the images of task u.
    """
    matrix = torch.tensor(accuracies, dtype=torch.float64)
    last = len(matrix) - 1
    return float(sum(matrix[u:last, u].max() - matrix[last, u] for u in range(last)) / last)
