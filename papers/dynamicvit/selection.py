"""Which places of an image are kept: what all sparsified networks share.

A predictor gives every place the probabilities of being kept and of being dropped. In training a decision is drawn from
them, so that the loss reaches the predictor; in inference the places with the highest scores are kept, as many as the
keep rate says.

Shapes: B images, N places (patch tokens, or positions of a feature map), C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from common.errors import UserError


class Sparsified(NamedTuple):
    """What a sparsified network gives to its training.

    Attributes:
        logits: (B, classes).
        tokens: (B, M, C), which the host's are to be like.
        decisions: of each step, (B, N): 1 where a place is kept, 0 where it is dropped.
    """

    logits: Tensor
    tokens: Tensor
    decisions: tuple[Tensor, ...]


class Predictor(nn.Module):
    """Scores places from their own features and the mean of the others': (B, N, C) -> (B, N, 2).

    The two values are the logarithms of the probabilities that a place is kept, and that it is dropped.

    Args:
        dim: C.
        eps: of the norm.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(nn.LayerNorm(dim, eps=eps), nn.Linear(dim, dim), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim // 4), nn.GELU(), nn.Linear(dim // 4, 2)
        )
        self.apply(initialise)

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Score ``x``; the mean is over the places that are ``kept`` (B, N), over all where None."""
        local, others = self.in_conv(x).chunk(2, dim=-1)
        if kept is None:
            mean = others.mean(dim=1, keepdim=True)
        else:
            mean = (others * kept[..., None]).sum(dim=1, keepdim=True) / kept.sum(dim=1)[:, None, None]
        return self.out_conv(torch.cat((local, mean.expand_as(others)), dim=-1)).log_softmax(dim=-1)


def initialise(module: nn.Module) -> None:
    """First weights of the linear maps that sparsification adds, as released."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def gumbel_noise(like: Tensor) -> Tensor:
    """Independent draws from the standard Gumbel distribution, in the shape of ``like``."""
    return -torch.empty_like(like).exponential_().log()


def draw(scores: Tensor, noise: Tensor | None = None) -> Tensor:
    """Decide for each place by its probabilities: (B, N, 2) -> (B, N) of 0 and 1.

    The gradient is that of the softmax of scores and noise (straight-through Gumbel-softmax, Jang et al., "Categorical
    Reparameterization with Gumbel-Softmax", ICLR 2017).

    Args:
        scores: logarithms of the probabilities of keeping and of dropping.
        noise: standard Gumbel, of the same shape; drawn where None.
    """
    soft = (scores + (gumbel_noise(scores) if noise is None else noise)).softmax(dim=-1)[..., 0]
    hard = (soft >= 0.5).to(soft.dtype)
    return hard - soft.detach() + soft


def places_kept(places: int, rate: float) -> int:
    """How many of ``places`` a step keeps: as released, rounded down in double precision, but one at least."""
    return max(1, int(places * rate))


class Sparse(nn.Module):
    """What the sparsified networks have in common, beside a host that is one of timm's classes.

    Attributes:
        decay: how a keep rate falls over the steps: ``power`` (rho, rho^2, rho^3) or ``difference`` (rho, rho - 0.2,
            rho - 0.4).
        sparse_training: whether the network gives `Sparsified` in training, see `set_sparse_training`.
    """

    decay = "power"
    sparse_training = False
    selector: Any  # the module that has the locations, the keep rates and the predictors
    forward_features: Any
    forward_head: Any

    def set_keep_rate(self, rate: float | Sequence[float]) -> None:
        """Keep this share of the places: a number is the paper's rho, a sequence the rates of all steps.

        Rates are of all places, so that they do not rise; a step of rate 1 is left out.

        Raises:
            UserError: a rate that is not above 0 and at most 1, that rises, or too few or many of them.
        """
        steps = len(self.selector.locations)
        if isinstance(rate, (int, float)):
            rates = [rate**step if self.decay == "power" else rate - 0.2 * (step - 1) for step in range(1, steps + 1)]
            rates = [1.0] * steps if rate == 1 else rates
        else:
            rates = list(rate)
        if len(rates) != steps:
            raise UserError(f"There are {steps} steps of selection and {len(rates)} keep rates; give one a step.")
        if not all(0 < each <= 1 for each in rates) or rates != sorted(rates, reverse=True):
            said = ", ".join(f"{each:.3g}" for each in rates)
            raise UserError(f"Keep rates must be above 0, at most 1 and never rise over the steps, not {said}.")
        self.selector.keep_rates = tuple(float(each) for each in rates)

    def set_sparse_training(self, enable: bool = True) -> None:
        """Have the network return `Sparsified` in training, whose logits are the first element of a tuple."""
        self.sparse_training = enable

    def group_matcher(self, coarse: bool = False) -> Any:
        """Layers for layer-wise learning rates: the host is one, what sparsification adds the other."""

        def layer(name: str) -> int:
            return int("score_predictor" in name or "fast" in name)

        return layer

    def forward_sparse(self, x: Tensor, noise: Sequence[Tensor] | None = None) -> Sparsified:
        """Images (B, 3, H, W) to what training asks for; ``noise`` is that of `draw` at each step, (B, N, 2)."""
        raise NotImplementedError

    def token_distance(self, ours: Sparsified, host: Sparsified) -> Tensor:
        """How far the tokens are from the host's, a scalar: the mean square over places and channels."""
        return F.mse_loss(ours.tokens, host.tokens)

    def forward(self, x: Tensor) -> Any:
        """Images (B, 3, H, W) to logits (B, classes), or to `Sparsified`, see `set_sparse_training`."""
        if self.training and self.sparse_training:
            return self.forward_sparse(x)
        return self.forward_head(self.forward_features(x))
