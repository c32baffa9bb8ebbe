"""Pre-training by ReLICv2: several views, a target network, and the loss; other stages are SimCLR's."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.training.hooks import Batch, Hook, Training
from common.training.randomness import generator
from common.training.recipe import Recipe
from papers.relicv2.method import negatives, relic_terms, small_views, target_decay, without_background
from papers.simclr.training import Contrastive
from papers.simclr.training import hooks as simclr_hooks

#: A pass without a gradient costs a third of one with it.
FORWARD = 1 / 3


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings.

    The keys of ``papers.simclr.training.hooks``, and of pre-training: ``large_views`` and ``small_views``, how many of
    each; ``small_side``, pixels of a small view; ``smallest_share`` and ``largest_share`` of a large view's area that a
    small one shows; ``mask_probability``, of a large view without background, where the data have masks;
    ``invariance``, the weight of that term; ``negatives``, how many an image is told from, 0 for all of the batch;
    ``same_view``, whether a view is also compared with itself in the target network; ``target_decay``, what stays of
    that network in the first step.

    Raises:
        UserError: a value is out of range.
    """
    method = recipe.method
    (hook,) = simclr_hooks(recipe)
    if not isinstance(hook, Contrastive):
        return [hook]
    if int(method["large_views"]) < 2:
        raise UserError(f"An image has two large views at least, not {method['large_views']}: set method.large_views.")
    for key in ("mask_probability", "target_decay"):
        if not 0 <= float(method[key]) <= 1:
            raise UserError(f"{key} lies between 0 and 1, not at {method[key]}: set method.{key}.")
    for key in ("small_views", "invariance"):
        if float(method[key]) < 0:
            raise UserError(f"{key} is 0 or more, not {method[key]}: set method.{key}.")
    if int(method["small_side"]) < 1:
        raise UserError(f"A small view has a pixel at least, not {method['small_side']}: set method.small_side.")
    if recipe.total_batch < 2:
        raise UserError("An image is told from others of its batch: set total_batch to 2 at least.")
    if not 0 <= int(method["negatives"]) < recipe.total_batch:
        others = recipe.total_batch - 1
        raise UserError(
            f"An image has {others} other images, not {method['negatives']}: set method.negatives, 0 for all."
        )
    low, high = float(method["smallest_share"]), float(method["largest_share"])
    if not 0 < low <= high <= 1:
        raise UserError(
            f"A small view shows {low:g} to {high:g} of a large one, which is no range of shares in (0, 1]."
        )
    return [ReLIC(hook, recipe)]


class ReLIC(Hook):
    """Pre-train without labels: tell views of an image from other images, and alike in both directions.

    The classifier learns from labels on features through which no gradient flows, as in SimCLR's pre-training.

    Attributes:
        target: the target network, a copy of the model that follows it; None before training.

    Args:
        simclr: distorts views.
        recipe: see :func:`hooks`.
    """

    def __init__(self, simclr: Contrastive, recipe: Recipe) -> None:
        method = recipe.method
        self.simclr = simclr
        self.views, self.small = int(method["large_views"]), int(method["small_views"])
        self.side = int(method["small_side"])
        self.scale = float(method["smallest_share"]), float(method["largest_share"])
        self.mask_probability, self.invariance = float(method["mask_probability"]), float(method["invariance"])
        self.negatives, self.decay = int(method["negatives"]), float(method["target_decay"])
        self.same_view = bool(method["same_view"])
        self.copies = self.views * (1 + FORWARD) + self.small * (self.side / recipe.input_size) ** 2
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (recipe.mean, recipe.std))
        self.target: Any = None
        self._small: list[Tensor] = []

    def on_model(self, run: Training, model: nn.Module) -> None:
        """As SimCLR; the target network starts as the model."""
        self.simclr.on_model(run, model)
        self.target = deepcopy(model).requires_grad_(False)

    def start(self, run: Training) -> None:
        """Have everything on the run's device."""
        self.simclr.start(run)
        self._mean, self._std = self._mean.to(run.device), self._std.to(run.device)
        self.target.to(run.device).train()

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Cut small views, take background away and distort images (B, views, C, H, W); masks are a fourth channel."""
        plan, large = run.plan, []
        own = slice(plan.rank, None, plan.world)
        self._small = []
        views = [(each * self._std + self._mean).clamp(0, 1) for each in batch.images.unbind(dim=1)]
        for number in range(self.small):
            random = generator(plan.seed, "small view", run.step, number)
            pixels = views[number % len(views)][:, :3]
            cut = small_views(pixels, self.side, self.scale, plan.total_batch, own, random)
            self._small.append(self._distorted(run, cut, random))
        for number, pixels in enumerate(views):
            random = generator(plan.seed, "distortion", run.step, number)
            images = pixels[:, :3]
            if pixels.shape[1] == 4:
                chosen = torch.rand(plan.total_batch, generator=random)[own] < self.mask_probability
                images = without_background(images, pixels[:, 3:] > 0.5, chosen.to(images.device))
            large.append(self._distorted(run, images, random))
        batch.images = torch.cat(large)
        batch.labels = batch.targets = batch.labels.repeat(self.views)

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Add the mean loss of all pairs of a view in the online network and a large one in the target network."""
        model: Any = run.plain_model
        online = [*batch.outputs[1].chunk(self.views), *(model(small)[1] for small in self._small)]
        with torch.no_grad():
            target = self.target(batch.images)[1].chunk(self.views)
        pairs = [(i, j) for i, j in product(range(len(online)), range(self.views)) if self.same_view or i != j]
        random, plan, total = generator(run.plan.seed, "negatives", run.step), run.plan, loss.new_zeros(())
        for i, j in pairs:
            kept = negatives(self.negatives, plan.total_batch, random)
            if kept is not None:
                kept = kept.unflatten(0, (plan.world, -1))[plan.rank].to(run.device)
            terms = relic_terms(online[i], target[j], self.simclr.temperature, kept)
            total = total + terms.contrast + self.invariance * terms.invariance
        return loss + total / len(pairs)

    @torch.no_grad()
    def on_step(self, run: Training) -> None:
        """Let the target network follow; its statistics of batch norm are its own."""
        decay = target_decay(self.decay, run.step, run.total_steps)
        for slow, fast in zip(self.target.parameters(), run.plain_model.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)

    def finish(self, run: Training) -> None:
        """Leave a classifier."""
        self.simclr.finish(run)

    def state_dict(self) -> dict[str, Any]:
        """The target network."""
        return {"target": self.target.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.target.load_state_dict(state["target"])

    def _distorted(self, run: Training, pixels: Tensor, random: torch.Generator) -> Tensor:
        """Distort images in [0, 1], and normalise them."""
        own = slice(run.plan.rank, None, run.plan.world)
        changed = self.simclr.distort(pixels, run.plan.total_batch, own, random)
        return (changed - self._mean) / self._std
