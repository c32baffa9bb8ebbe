"""How the analyses are made at full scale: what ``recipe.toml`` says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from common.training.recipe import load_as

RECIPE = Path(__file__).with_name("recipe.toml")


@dataclass(frozen=True)
class Analysis:
    """The keys of a table of ``recipe.toml``."""

    image_size: int  # pixels on a side
    # -- attention
    attention_batch: int  # images of a forward pass
    attention_mass: float  # share of the attention that a mask keeps
    # -- representations
    cka_batch: int  # images of a batch of CKA
    image_clusters: int  # of class tokens, and of mean patch tokens
    segment_clusters: int  # of the mean tokens of objects and of parts
    # -- neighbours
    neighbours: int  # that vote
    temperature: float  # of the votes
    # -- keypoints
    pairs_per_category: int  # of SPair-71k's test pairs
    pairs_seed: int
    alpha: float  # share of the object's larger side within which a keypoint is found


@lru_cache(maxsize=1)
def released() -> Analysis:
    """The released setting."""
    return load_as(Analysis, RECIPE, "released")
