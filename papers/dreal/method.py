"""DREAL: attention modules as actors, judged by a recurrent critic and rewarded by what each one brings.

Li and Chen, "Deep Reinforced Attention Learning for Quality-Aware Visual Recognition", ECCV 2020, arXiv 2007.06156.
Only its abstract was at hand; the README says which sentence of it each part here rests on.

An attention module scales features x to x * a. Its map a, brought to a number for each channel (`gates`), is the
action of an actor. The reward of a module for an image is the sign of what it brings to recognition: the network with
it against the network in which it stands aside (`reward`). A sign has no gradient. So a critic (`Critic`), an LSTM that
goes from module to module as features do, learns to foretell rewards from what a module saw and did, and modules learn
to do what the critic values. Both are needed in training alone.

Axes: B images, C channels, H x W places, M modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from timm.layers.cbam import CbamModule, LightCbamModule
from timm.layers.coord_attn import CoordAttn, EfficientLocalAttn, SimpleCoordAttn, StripAttn
from timm.layers.eca import CecaModule, EcaModule
from timm.layers.gather_excite import GatherExcite
from timm.layers.squeeze_excite import EffectiveSEModule, SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn
from torch.func import functional_call

from common.errors import UserError, nearest
from common.training.gathering import average_gradients, gather

#: timm's modules that scale features by a map; any module that does can be an actor.
MODULES = (
    SEModule,
    EffectiveSEModule,
    SqueezeExcite,
    EcaModule,
    CecaModule,
    GatherExcite,
    CbamModule,
    LightCbamModule,
    CoordAttn,
    SimpleCoordAttn,
    EfficientLocalAttn,
    StripAttn,
)
#: What a module that stands aside does: nothing, or to every image what it does on average.
ASIDE = ("mean", "identity")
#: Whose sign the reward is: the gain of the true class's probability, or of being right.
REWARDS = ("probability", "decision")


def actors(model: nn.Module, kinds: tuple[type[nn.Module], ...] = MODULES) -> list[nn.Module]:
    """The attention modules of a network, in its order.

    Raises:
        UserError: it has none.
    """
    found = [module for module in model.modules() if isinstance(module, kinds)]
    if not found:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{type(model).__name__} has no attention module that could be reinforced; known are {names}.")
    return found


def gates(x: Tensor, out: Tensor) -> Tensor:
    """What a module kept of each channel, (B, C), from its features before and after, (B, C, H, W).

    The ratio of their magnitudes: of a map with a number for each channel, as squeeze-and-excitation has, it is the map
    itself; of one with a number for each place, its mean weighted by the features.
    """
    full = _full(x.dtype)
    kept, seen = (values.abs().sum(dim=(2, 3), dtype=full) for values in (out, x))
    return kept / seen.clamp(min=torch.finfo(full).tiny ** 0.5)


def _full(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in where features of a pass in mixed precision have few bits."""
    return torch.promote_types(dtype, torch.float32)


def standing_aside(x: Tensor, out: Tensor, form: str) -> Tensor:
    """Features (B, C, H, W) behind a module that stands aside, from those before it and those that it would give.

    Raises:
        UserError: there is no such form.
    """
    if form not in ASIDE:
        raise UserError(f"A module stands aside by {' or '.join(ASIDE)}, not {form!r}.{nearest(form, ASIDE)}")
    return x if form == "identity" else x * gates(x, out).mean(dim=0).to(x.dtype)[:, None, None]


def reward(with_module: Tensor, without: Tensor, labels: Tensor, form: str = "probability") -> Tensor:
    """What a module brings to each image, (B,): 1 where recognition is better with it, -1 where worse, 0 where equal.

    Args:
        with_module, without: logits (B, classes).
        labels: true classes (B,).
        form: one of `REWARDS`.

    Raises:
        UserError: there is no such form.
    """
    if form == "decision":
        return (with_module.argmax(dim=1) == labels).float() - (without.argmax(dim=1) == labels).float()
    if form != "probability":
        raise UserError(f"The reward is of {' or '.join(REWARDS)}, not {form!r}.{nearest(form, REWARDS)}")
    score, other = (x.log_softmax(dim=1).gather(1, labels[:, None])[:, 0] for x in (with_module, without))
    return (score - other).sign()


class Watch:
    """Notes what the attention modules of a network take and give in each pass, and lets one of them stand aside.

    Args:
        model: watched until `close`.
        form: what standing aside is, see `standing_aside`.

    Attributes:
        modules: the actors, M of them.
        states: features before each module in the last pass, detached.
    """

    def __init__(self, model: nn.Module, form: str = "mean") -> None:
        standing_aside(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), form)  # before anything is trained
        self.model, self.modules, self.form = model, actors(model), form
        self.states: list[Tensor] = [torch.empty(0)] * len(self.modules)
        self._aside: int | None = None
        self._handles = [
            module.register_forward_hook(partial(self._after, number)) for number, module in enumerate(self.modules)
        ]

    def without(self, number: int, images: Tensor) -> Tensor:
        """Logits (B, classes) of the network in which a module stands aside; statistics of batch norm stay."""
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        self._aside = number
        try:
            with torch.no_grad():
                return functional_call(self.model, buffers, (images,))
        finally:
            self._aside = None

    def maps(self) -> list[Tensor]:
        """`gates` of every module on the last pass, (B, C) each, computed anew: their gradient is of modules alone."""
        found = []
        for module, x in zip(self.modules, list(self.states), strict=True):
            buffers = {name: value.clone() for name, value in module.named_buffers()}
            with torch.autocast(x.device.type, enabled=False):
                seen = x.to(_full(x.dtype))
                found.append(gates(seen, functional_call(module, buffers, (seen,))))
        return found

    def close(self) -> None:
        """Leave the network as it was."""
        for handle in self._handles:
            handle.remove()

    def _after(self, number: int, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        if self._aside is None:
            self.states[number] = args[0].detach()
        elif self._aside == number:
            return standing_aside(args[0], out, self.form)
        return None


class Critic(nn.Module):
    """Foretells the reward of each attention module, from the first to the last, by what was seen and done so far.

    Args:
        channels: C of each module.
        hidden: numbers of the memory.
    """

    def __init__(self, channels: Sequence[int], hidden: int = 64) -> None:
        super().__init__()
        self.hidden = hidden
        self.embed = nn.ModuleList(nn.Linear(2 * count, hidden) for count in channels)
        self.cell = nn.LSTMCell(hidden, hidden)
        self.value = nn.Linear(hidden, 1)

    def forward(self, states: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
        """Values (B, M).

        Args:
            states: features before each module, (B, C, H, W).
            maps: what each did, (B, C).
        """
        memory = maps[0].new_zeros(2, len(maps[0]), self.hidden).unbind(0)
        values = []
        with torch.autocast(maps[0].device.type, enabled=False):
            for embed, state, done in zip(self.embed, states, maps, strict=True):
                seen = torch.cat([state.mean(dim=(2, 3), dtype=done.dtype), done], dim=1)
                memory = self.cell(embed(seen).relu(), memory)
                values.append(self.value(memory[0])[:, 0])
        return torch.stack(values, dim=1)


def value_without_critic(critic: Critic, states: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    """The mean value of what modules did, a scalar whose gradient is theirs and not the critic's."""
    weights = {name: value.detach() for name, value in critic.named_parameters()}
    return functional_call(critic, weights, (list(states), list(maps))).mean()


class Reinforcement:
    """A watched network with its critic: judges a module, teaches the critic, and says what it values.

    Args:
        watch: of a network that has made a pass.
        form: of the reward, one of `REWARDS`.
        hidden: numbers of the critic's memory.
        rate: learning rate of the critic, by Adam.
        seed: of its start.
    """

    def __init__(self, watch: Watch, form: str = "probability", hidden: int = 64, rate: float = 1e-3, seed: int = 0):
        self.watch, self.form = watch, form
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            critic = Critic([state.shape[1] for state in watch.states], hidden)
        self.critic = critic.to(watch.states[0].device)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), lr=rate)

    def step(self, number: int, images: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """Judge module ``number`` on the network's last pass, and let the critic learn from it.

        Critics of several processes learn from the images of all, and so stay the same; the mean reward is over all.

        Args:
            number: of the module.
            images: of the pass, (B, ...).
            logits: what it gave, (B, classes).
            labels: true classes (B,).

        Returns:
            What the critic then values what all modules did, a scalar with their gradient; and the mean reward.
        """
        brought = reward(logits.detach(), self.watch.without(number, images), labels, self.form)
        maps = self.watch.maps()
        foretold = self.critic(self.watch.states, [one.detach() for one in maps])
        self.optimizer.zero_grad()
        (foretold[:, number] - brought).square().mean().backward()
        average_gradients(self.critic.parameters())
        self.optimizer.step()
        return value_without_critic(self.critic, self.watch.states, maps), float(gather(brought.mean()[None]).mean())
