"""DynamicViT's training: from a host's weights, with decisions held to the keep rates, and the host as a teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.checkpoints import from_released, read, unwrap
from common.errors import UserError
from common.training.batch import Batch
from common.training.hooks import Hook, Training
from common.training.recipe import Recipe
from papers.dynamicvit.selection import Sparse, Sparsified


@dataclass(frozen=True)
class Settings:
    """The recipe's ``method`` table.

    Attributes:
        ratio_weight: of how far decisions are from the keep rates.
        distillation_weight: of how far classes and tokens are from the host's, each.
        frozen_epochs: how long the host's weights stay as they are at the beginning.
        frozen_embeddings: whether class token and positions stay as they are to the end.
        teacher: the trained host: timm's name of pretrained weights, or a released file; empty where the run is given
            one.

    Raises:
        UserError: a negative number.
    """

    ratio_weight: float
    distillation_weight: float
    frozen_epochs: int
    frozen_embeddings: bool
    teacher: str

    def __post_init__(self) -> None:
        for name in ("ratio_weight", "distillation_weight", "frozen_epochs"):
            if getattr(self, name) < 0:
                raise UserError(f"method.{name} cannot be below 0: {getattr(self, name)}.")


def ratio_distance(ours: Sparsified, rates: Sequence[float]) -> Tensor:
    """Squared difference between the share of places that is kept and the rate, mean over images, sum over steps."""
    distance = ours.logits.new_zeros(())
    for decision, rate in zip(ours.decisions, (each for each in rates if each < 1), strict=True):
        distance = distance + (decision.mean(dim=1) - rate).square().mean()
    return distance


def class_distance(ours: Sparsified, host: Sparsified) -> Tensor:
    """KL(host || ours) of the classes, mean over images."""
    own, target = ours.logits.log_softmax(dim=-1), host.logits.log_softmax(dim=-1)
    return F.kl_div(own, target, reduction="batchmean", log_target=True)


class Sparsification(Hook):
    """Train a sparsified network from its host.

    The host that teaches is the network itself with the host's weights, keeping everything.

    Attributes:
        teacher: a trained network of the host's architecture; None until it is given or made from the settings.

    Raises:
        UserError: before training, the network is not a sparsified one, or there is no host that fits it.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.teacher: nn.Module | None = None
        self._host: Any = None

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Give the network its host's weights and have it tell its decisions."""
        if not isinstance(model, Sparse):
            raise UserError(f"{type(model).__name__} selects nothing; train one of dynamicvit's models.")
        state = _state(self.settings.teacher, model) if self.teacher is None else self.teacher.state_dict()
        start_from(model, state)
        model.set_sparse_training()
        self._host = copy.deepcopy(model).eval().requires_grad_(False)
        self._host.set_keep_rate(1.0)
        if self.settings.frozen_embeddings:
            for name in ("cls_token", "pos_embed"):
                if isinstance(parameter := getattr(model, name, None), nn.Parameter):
                    parameter.requires_grad_(False)

    def start(self, run: Training) -> None:
        """Put the teacher on the run's device."""
        self._host.to(run.device)

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Leave the host's weights as they are in the first epochs; by ``layer_decay`` they have rates of their own."""
        if run.epoch < self.settings.frozen_epochs:
            for group in run.optimizer.param_groups:
                if group.get("lr_scale", 1.0) < 1:
                    group["lr"] = 0.0

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Add what decisions, classes and tokens cost."""
        ours = Sparsified(*batch.outputs)
        with torch.no_grad(), run.accelerator.autocast():
            host = self._host.forward_sparse(batch.images)
        network: Any = run.plain_model
        rates = network.selector.keep_rates
        distillation = class_distance(ours, host) + network.token_distance(ours, host)
        ratio = ratio_distance(ours, rates) / len(rates)
        return loss + self.settings.ratio_weight * ratio + self.settings.distillation_weight * distillation


def start_from(model: Sparse, state: Mapping[str, Tensor]) -> None:
    """Load a host's weights, strictly but for what sparsification adds.

    Raises:
        UserError: names the first tensor that is missing, unexpected or of another shape.
    """
    own, is_added = model.state_dict(), model.group_matcher()
    host = {name for name in own if not is_added(name)}
    for name in sorted(host ^ set(state)):
        where = "the host lacks" if name in host else "the network lacks"
        raise UserError(f"The host does not fit {type(model).__name__}: {where} {name}; give the host of its size.")
    for name in host:
        if own[name].shape != state[name].shape:
            raise UserError(
                f"The host does not fit {type(model).__name__}: {name} is {list(state[name].shape)} in the host and "
                f"{list(own[name].shape)} in the network; give the host of its size."
            )
    model.load_state_dict(dict(state), strict=False)


def _state(teacher: str, model: Sparse) -> Mapping[str, Tensor]:
    """The weights that the settings name."""
    if not teacher:
        raise UserError(
            "A sparsified network is trained from its host, and the recipe names none: set method.teacher to timm's "
            "name of it, or to its released file."
        )
    if Path(teacher).is_file():
        return from_released(unwrap(read(teacher)), model)
    try:
        return timm.create_model(teacher, pretrained=True).state_dict()
    except Exception as error:  # of what downloads, too, which has errors of its own (network, proxy)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"The host {teacher} cannot be loaded ({reason}); give its file as method.teacher.") from None


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings, see `Settings`.

    Raises:
        UserError: a value is out of range, or a key is not the hook's.
    """
    method: dict[str, Any] = dict(recipe.method)
    try:
        settings = Settings(**method)
    except TypeError as error:
        raise UserError(f"The method table of this recipe is not DynamicViT's: {error}.") from None
    return (Sparsification(settings),)
