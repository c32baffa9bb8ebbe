"""DREAL as a hook: in each step a module is judged, the critic learns, and then all modules do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.training.batch import Batch
from common.training.hooks import Hook, Training
from common.training.randomness import generator
from common.training.recipe import Recipe
from papers.dreal.method import Reinforcement, Watch, actors, reward, standing_aside


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings.

    ``reward`` and ``aside`` are of `REWARDS` and `ASIDE` in `papers.dreal.method`. ``strength``: weight of the
    critic's value beside the loss of recognition; 0 leaves the method out. ``critic_hidden`` and ``critic_rate``: size
    of the critic's memory, and its learning rate.

    Raises:
        UserError: a value is out of range, or the recipe mixes images, for which no class is the true one.
    """
    method = recipe.method
    form, aside, strength = str(method["reward"]), str(method["aside"]), float(method["strength"])
    hidden, rate = int(method["critic_hidden"]), float(method["critic_rate"])
    reward(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), form)
    standing_aside(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), aside)
    if strength < 0 or rate <= 0 or hidden < 1:
        raise UserError(
            "The critic has a positive size and rate, and its value no negative weight: set method.critic_hidden, "
            "method.critic_rate and method.strength."
        )
    if recipe.mixes:
        raise UserError("A reward needs the true class, which mixed images do not have: set mix_probability=0.")
    return [Reinforce(aside, strength, form=form, hidden=hidden, rate=rate)] if strength else []


class Reinforce(Hook):
    """Train attention modules by a critic's value beside the loss.

    A step judges one module, drawn at random, by one more pass without gradient; the critic learns from that, and then
    every module takes a step towards what the critic values. Nothing of it is left in the trained network.

    Args:
        aside: what a module that is judged does in the pass without it.
        strength: weight of the value.
        settings: arguments of `papers.dreal.method.Reinforcement`.

    Attributes:
        rewards: for each step its number, the module that was judged, and its mean reward.
    """

    def __init__(self, aside: str, strength: float, **settings: Any) -> None:
        self.aside, self.strength, self.settings = aside, strength, settings
        self.rewards: list[tuple[int, int, float]] = []
        self.watch: Watch | None = None
        self.method: Reinforcement | None = None
        self._loaded: dict[str, Any] = {}

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Make sure that there is something to reinforce."""
        actors(model)

    def start(self, run: Training) -> None:
        """Begin to watch."""
        self.watch = Watch(run.plain_model, self.aside)

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Judge a module, teach the critic, and add what it thinks of all modules to the loss."""
        assert self.watch is not None
        if self.method is None:  # the modules' channels are known from the first pass on
            self.method = Reinforcement(self.watch, seed=run.plan.seed, **self.settings)
            if self._loaded:
                self.method.critic.load_state_dict(self._loaded["critic"])
                self.method.optimizer.load_state_dict(self._loaded["optimizer"])
        draws = generator(run.plan.seed, "judged", run.step)
        number = int(torch.randint(len(self.watch.modules), (), generator=draws))
        value, mean = self.method.step(number, batch.images, batch.logits, batch.labels)
        self.rewards.append((run.step, number, mean))
        return loss - self.strength * value

    def finish(self, run: Training) -> None:
        """Leave the network as any other, with the rewards where it has a place for them."""
        if self.watch is not None:
            self.watch.close()
        model: Any = run.plain_model
        if isinstance(getattr(model, "rewards", None), Tensor):
            bins, modules = model.rewards.shape
            model.rewards.copy_(binned(self.rewards, bins, modules, run.total_steps))

    def state_dict(self) -> dict[str, Any]:
        """The critic, its optimizer and the rewards so far."""
        if self.method is None:
            return {}
        critic, optimizer = self.method.critic.state_dict(), self.method.optimizer.state_dict()
        return {"critic": critic, "optimizer": optimizer, "rewards": [list(one) for one in self.rewards]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back; the critic's part once it is made."""
        self._loaded = state
        self.rewards = [(int(step), int(number), float(mean)) for step, number, mean in state.get("rewards", [])]


def binned(rewards: Sequence[tuple[int, int, float]], bins: int, modules: int, steps: int) -> Tensor:
    """Mean rewards (bins, modules) by the part of a training of ``steps`` steps; 0 where a module was not judged."""
    total, count = torch.zeros(bins, modules), torch.zeros(bins, modules)
    for step, number, mean in rewards:
        place = min(step * bins // steps, bins - 1)
        total[place, number] += mean
        count[place, number] += 1
    return total / count.clamp(min=1)
