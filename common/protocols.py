"""What a module, a model and a paper may offer to the core beyond what PyTorch and timm ask of them.

The core looks for these names and for no others. They are all optional; who has one has it with this signature, which
the contract's tests check for every declared model and every paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

if TYPE_CHECKING:  # a module of types alone: it is imported by those whose types it names
    from common.bench.contenders import Contender
    from common.measurement import Measurement


@runtime_checkable
class HasDerivedState(Protocol):
    """A module some of whose state follows from other state; a checkpoint may lack it."""

    derived: ClassVar[tuple[str, ...]]  # names of its own parameters and buffers

    def recompute_derived(self) -> None:
        """Set all of them from the other state."""


@runtime_checkable
class HasReleasedForm(Protocol):
    """A module whose release computes something else than its publication says."""

    def use_released_form(self) -> None:
        """Compute what the release does from now on; called when released weights have been loaded."""


@runtime_checkable
class ListensToSteps(Protocol):
    """A module that is told of each step of the optimizer, on one device and on many."""

    def on_optimizer_step(self, step: int) -> None:
        """After ``step`` steps, counted from 1; random draws are alike on all processes."""


@runtime_checkable
class HasAttentionMap(Protocol):
    """An attention that gives its map without timm's names of queries and keys."""

    def attention_map(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to the share (B, heads, N) that each token has, mean over those that ask."""


@runtime_checkable
class HasNoWeightDecay(Protocol):
    """A model with parameters that are not decayed beside biases and norms; timm's convention."""

    def no_weight_decay(self) -> set[str]:
        """Their names."""


@runtime_checkable
class HasNoLayerAdaptation(Protocol):
    """A model with parameters whose learning rate LARS does not adapt."""

    def no_layer_adaptation(self) -> set[str]:
        """Their names; they are not decayed either."""


class Conversion(Protocol):
    """A pure function on state dicts, in the module that defines a model's class (or that a paper declares for it).

    ``checkpoint_filter_fn`` (timm's name) gives the model's names to released tensors, ``released_state_dict`` is its
    inverse, and ``resize_grid`` gives tensors that are tied to a grid of tokens the sizes that they have in the model.
    """

    def __call__(self, state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """The tensors for ``model``."""


#: The names under which conversions are looked for.
CONVERSIONS = ("checkpoint_filter_fn", "released_state_dict", "resize_grid")


@runtime_checkable
class OffersContenders(Protocol):
    """The module ``claims.py`` of a paper that trains on the bench."""

    def contenders(self) -> list[Contender]:
        """All that it trains; commands, traces and tests find them here."""


@runtime_checkable
class OffersSizes(Protocol):
    """The module ``claims.py`` of a paper whose models are not counted as all others are."""

    def model_size(self, name: str) -> Iterator[Measurement]:
        """Parameters and multiply-adds of a declared model, in place of :func:`common.profiling.size.model_size`."""


#: What is looked for on modules and models.
OF_MODULES = (HasDerivedState, HasReleasedForm, ListensToSteps, HasAttentionMap, HasNoWeightDecay, HasNoLayerAdaptation)
#: What is looked for in the ``claims.py`` of a paper.
OF_CLAIMS = (OffersContenders, OffersSizes)
