"""What learning task by task changes about training: whose classes a step is about, and what holds the old tasks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError, nearest
from common.training.batch import Batch
from common.training.hooks import Hook, Training
from common.training.recipe import Recipe
from papers.vit_continual.distillation import POOLINGS, distil_decisions, pooled_distillation
from papers.vit_continual.importance import PathIntegral, drift, fisher_information, merged
from papers.vit_continual.learner import Learner
from papers.vit_continual.model import Intermediates
from papers.vit_continual.tasks import Tasks

#: What holds the old tasks: nothing, importance of weights, or the old model's decisions, alone or with what its
#: attention computes before the softmax (attention) or after it (functional).
REGULARISERS = ("none", "ewc", "path_integral", "lwf", "attention", "functional")


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings.

    ``first_classes``, ``classes_per_task`` and ``class_order`` share out the classes, see `Tasks.of`. ``regulariser``
    is one of `REGULARISERS`; ``strength`` is its weight: of the squared distance of weights, or of attention (the
    publication's mu). ``decisions``, ``temperature``: weight and temperature of LwF, beside attention, too.
    ``asymmetric`` and ``pooling``: of attention, see `pooled_distillation`. ``alpha``: share of earlier tasks in EWC's
    importance. ``damping``: of the path integral. ``fisher_batches``: the last batches of a task, from which EWC
    estimates its importance.

    Raises:
        UserError: a value is out of range, or the recipe mixes images or smooths labels, which would mix tasks.
    """
    method = recipe.method
    for key in ("mixup", "cutmix", "label_smoothing"):
        if getattr(recipe, key):
            raise UserError(f"A task knows no classes but its own, to mix with or to smooth over: set {key}=0.")
    tasks = tasks_of(recipe)
    name, strength = str(method["regulariser"]), float(method["strength"])
    if strength < 0 or float(method["decisions"]) < 0:
        raise UserError("Weights of losses are not negative: set method.strength and method.decisions.")
    if not 0 <= float(method["alpha"]) <= 1:
        raise UserError(f"A share lies in [0, 1], not at {method['alpha']}: set method.alpha.")
    for key in ("temperature", "damping", "fisher_batches"):
        if float(method[key]) <= 0:
            raise UserError(f"{key} is above 0, not {method[key]}: set method.{key}.")
    if name == "none":
        return [ClassIncremental(tasks)]
    if name == "ewc":
        return [ElasticWeights(tasks, strength, float(method["alpha"]), int(method["fisher_batches"]))]
    if name == "path_integral":
        return [SynapticIntelligence(tasks, strength, float(method["damping"]))]
    if name not in REGULARISERS:
        known = ", ".join(REGULARISERS)
        raise UserError(f"There is no regulariser {name!r}.{nearest(name, REGULARISERS)} Known are {known}.")
    pooling = str(method["pooling"])
    if pooling not in POOLINGS:
        raise UserError(f"There is no pooling {pooling!r}.{nearest(pooling, POOLINGS)}")
    compared = {"lwf": "", "attention": "scores", "functional": "mixed"}[name]
    decisions, temperature = float(method["decisions"]), float(method["temperature"])
    form = {"asymmetric": bool(method["asymmetric"]), "pooling": pooling}
    return [Distillation(tasks, compared, decisions, temperature, weight=strength, **form)]


def tasks_of(recipe: Recipe) -> Tasks:
    """How a recipe shares out its classes."""
    method = recipe.method
    first, increment = int(method["first_classes"]), int(method["classes_per_task"])
    return Tasks.of(recipe.num_classes, first, increment, str(method["class_order"]))


class ClassIncremental(Hook):
    """Learn one task after another by the cross-entropy of the task's own head; by itself plain fine-tuning.

    A task begins with the first batch of its classes. Then the optimizer starts anew and earlier heads are frozen;
    when it ends, the learner remembers its weights.

    Args:
        tasks: in which the batches come.
    """

    def __init__(self, tasks: Tasks) -> None:
        self.tasks = tasks
        self.task = -1

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Make sure that the model is a learner of these tasks.

        Raises:
            UserError: it is none.
        """
        if not isinstance(model, Learner) or model.tasks != self.tasks:
            raise UserError(
                f"{type(model).__name__} does not learn these tasks: give train() a Learner(backbone, tasks) and "
                "TaskByTask(data, tasks), as the README of vit-continual shows."
            )

    def start(self, run: Training) -> None:
        """Go on with the head of a resumed run's task."""
        if self.task >= 0:
            _learner(run).open_head(self.task)

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Begin the batch's task where it is the next one.

        Raises:
            UserError: the batch has images of several tasks, or of one that was left before.
        """
        found = self.tasks.of_class.to(batch.labels.device)[batch.labels]
        task = int(found.max())
        if int(found.min()) != task or task not in (self.task, self.task + 1):
            raise UserError(
                "Images do not come task by task: give train() TaskByTask(data, tasks), as the README of vit-continual "
                "shows."
            )
        if task != self.task:
            if self.task >= 0:
                self.end_task(run)
            self.task = task
            _learner(run).open_head(task)
            run.optimizer.state.clear()

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """The cross-entropy among the task's own classes, and what holds the old ones."""
        own = torch.tensor(self.tasks.classes[self.task], device=batch.logits.device)
        places = self.tasks.place_in_task.to(batch.labels.device)[batch.labels]
        learnt = F.cross_entropy(batch.logits[:, own], places)
        return learnt + self.penalty(run, batch, learnt)

    def penalty(self, run: Training, batch: Batch, learnt: Tensor) -> Tensor:
        """What is added to the cross-entropy, a scalar."""
        return learnt.new_zeros(())

    def end_task(self, run: Training) -> None:
        """Remember the weights."""
        _learner(run).remember(self.task)

    def finish(self, run: Training) -> None:
        """End the last task, unless the run was interrupted."""
        if run.step == run.total_steps:
            self.end_task(run)

    def state_dict(self) -> dict[str, Any]:
        """The task."""
        return {"task": self.task}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.task = state["task"]

    @property
    def earlier(self) -> list[int]:
        """The classes of all earlier tasks."""
        return [one for own in self.tasks.classes[: max(self.task, 0)] for one in own]


class Distillation(ClassIncremental):
    """Keep what the model was after the last task, and hold the new one to its decisions and to its attention.

    Args:
        tasks: in which the batches come.
        compared: attribute of `Intermediates` that is compared; empty: decisions alone.
        decisions, temperature: weight and temperature of LwF.
        form: arguments of `pooled_distillation`.
    """

    def __init__(self, tasks: Tasks, compared: str, decisions: float, temperature: float, **form: Any) -> None:
        super().__init__(tasks)
        self.compared, self.decisions, self.temperature, self.form = compared, decisions, temperature, form
        self.old: Learner | None = None

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Have it return what its attentions compute."""
        super().on_model(run, model)
        model.notes = bool(self.compared)  # type: ignore[assignment]

    def penalty(self, run: Training, batch: Batch, learnt: Tensor) -> Tensor:
        """Distances from the old model on this batch."""
        if self.old is None:
            return super().penalty(run, batch, learnt)
        seen = Intermediates() if self.compared else None
        with torch.no_grad():
            logits = self.old.classify(self.old.features(batch.images, seen))
        loss = self.decisions * distil_decisions(
            logits[:, self.earlier], batch.logits[:, self.earlier], self.temperature
        )
        if seen is not None:
            old, new = (getattr(x, self.compared) for x in (seen, batch.outputs[1]))
            loss = loss + pooled_distillation(old, new, **self.form)
        return loss

    def end_task(self, run: Training) -> None:
        """Keep the model."""
        super().end_task(run)
        self._keep(_learner(run))

    def finish(self, run: Training) -> None:
        """Leave a classifier."""
        super().finish(run)
        _learner(run).notes = False

    def start(self, run: Training) -> None:
        """Take up the old model of a resumed run from the learner's snapshots."""
        super().start(run)
        if self.task > 0:
            self._keep(_learner(run), snapshot=self.task - 1)

    def _keep(self, learner: Learner, snapshot: int | None = None) -> None:
        self.old = copy.deepcopy(learner).requires_grad_(False).eval()
        if snapshot is not None:
            self.old.recall(snapshot)


class ElasticWeights(ClassIncremental):
    """Hold weights by their importance for earlier decisions (EWC); heads are not held.

    Args:
        tasks: in which the batches come.
        strength: of half the weighted squared distance; EWC's lambda.
        alpha: share of earlier tasks in the importance.
        fisher_batches: the last ones of a task are those that importance is estimated from; the release takes all.
    """

    def __init__(self, tasks: Tasks, strength: float, alpha: float, fisher_batches: int) -> None:
        super().__init__(tasks)
        self.strength, self.alpha = strength, alpha
        self.recent: list[tuple[Tensor, Tensor]] = []
        self.count = fisher_batches
        self.anchors: dict[str, Tensor] = {}
        self.importance: dict[str, Tensor] = {}

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Keep it among the last ones."""
        super().on_batch(run, batch)
        self.recent = [*self.recent, (batch.images, batch.labels)][-self.count :]

    def penalty(self, run: Training, batch: Batch, learnt: Tensor) -> Tensor:
        """Squared distance of weights from those of the last task, by importance."""
        if not self.anchors:
            return super().penalty(run, batch, learnt)
        return self.strength / 2 * drift(_weights(run), self.anchors, self.importance)

    def end_task(self, run: Training) -> None:
        """Estimate the importance, and hold weights to where they are."""
        super().end_task(run)
        learner, weights = _learner(run), _weights(run)
        known = [*self.earlier, *self.tasks.classes[self.task]]
        learner.eval()  # so that statistics of batch norm, where there are any, stay
        found = fisher_information(lambda x: learner.classify(learner.features(x))[:, known], weights, self.recent)
        learner.train()
        before = self.importance or {name: torch.zeros_like(value) for name, value in found.items()}
        self.importance = merged(before, found, self.alpha)
        self.anchors = {name: value.detach().clone() for name, value in weights.items()}
        self.recent = []

    def state_dict(self) -> dict[str, Any]:
        """Task, importance and the weights that are held to."""
        return super().state_dict() | {"importance": self.importance, "anchors": self.anchors, "recent": self.recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        super().load_state_dict(state)
        self.importance, self.anchors, self.recent = state["importance"], state["anchors"], state["recent"]


class SynapticIntelligence(ClassIncremental):
    """Hold weights by what they have brought down the loss by (path integral); heads are not held.

    Args:
        tasks: in which the batches come.
        strength: of the weighted squared distance.
        damping: see `PathIntegral`.
    """

    def __init__(self, tasks: Tasks, strength: float, damping: float) -> None:
        super().__init__(tasks)
        self.strength, self.damping = strength, damping
        self.path: PathIntegral | None = None
        self.gradients: dict[str, Tensor] = {}
        self.before: dict[str, Tensor] = {}

    def start(self, run: Training) -> None:
        """Begin where the weights are."""
        super().start(run)
        if self.path is None:
            self.path = PathIntegral(_weights(run), self.damping)

    def penalty(self, run: Training, batch: Batch, learnt: Tensor) -> Tensor:
        """Squared distance of weights from those of the last task, by importance; notes the gradient without it."""
        assert self.path is not None
        weights = _weights(run)
        found = torch.autograd.grad(learnt, list(weights.values()), retain_graph=True)
        self.gradients = dict(zip(weights, found, strict=True))
        self.before = {name: value.detach().clone() for name, value in weights.items()}
        return self.strength * drift(weights, self.path.anchors, self.path.importance)

    def on_step(self, run: Training) -> None:
        """Count what the step brought."""
        assert self.path is not None
        self.path.add(self.gradients, self.before, _weights(run))

    def end_task(self, run: Training) -> None:
        """Add the task's importance."""
        super().end_task(run)
        assert self.path is not None
        self.path.end_task(_weights(run))

    def state_dict(self) -> dict[str, Any]:
        """Task and path."""
        path = self.path
        assert path is not None
        return super().state_dict() | {"path": [path.anchors, path.brought, path.importance]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        super().load_state_dict(state)
        anchors, brought, importance = state["path"]
        self.path = PathIntegral(anchors, self.damping)
        self.path.brought, self.path.importance = brought, importance


def _learner(run: Training) -> Learner:
    learner: Any = run.plain_model
    return learner


def _weights(run: Training) -> dict[str, nn.Parameter]:
    """Those of the features, by name."""
    return dict(_learner(run).backbone.named_parameters())
