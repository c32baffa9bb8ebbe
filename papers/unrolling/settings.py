"""What a table of ``recipe.toml`` says: a problem, the solvers compared on it, and how networks are trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.run import Run
from common.training.recipe import load_as

RECIPE = Path(__file__).with_name("recipe.toml")


@dataclass(frozen=True)
class Experiment:
    """One experiment; the keys of a table in ``recipe.toml``."""

    # -- problem
    data: str  # gaussian or patches
    signal_size: int  # N; of patches, a square number of pixels
    code_size: int  # m
    density: float  # share of non-zero entries of a drawn code; of no effect for patches
    test_signals: int
    training_signals: int  # patches to train on; of no effect for drawn codes, which are new in every step
    dictionary_epochs: int  # passes over these to learn the dictionary; likewise
    # -- ISTA and FISTA
    sparsities: tuple[float, ...]  # lambda; of several the best is taken for each error
    iterations: int  # at most
    equal_error: float  # in dB; what the claim speed measures all solvers to
    # -- networks
    networks: tuple[str, ...]
    layers: int
    selected: float  # support selection: share of a code's entries, added layer by layer
    most_selected: float
    # -- training
    steps: int
    batch: int
    matrix_rate: float  # largest learning rate of Adam for matrices
    scalar_rate: float  # and for steps and thresholds
    warmup: float  # share of the steps in which the rates rise, before they fall along a cosine
    clip_gradient: float  # largest norm


def load(run: Run, setting: str) -> Experiment:
    """The setting of the recipe, in its quick form where the run is quick."""
    return load_as(Experiment, RECIPE, setting, quick=run.settings.quick)
