"""SReT: parity with the released implementation, what loops and slices do, and what its claims measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.parity import Fixture, Form, check_model

RECORDED = torch.from_numpy(Fixture.load("sret", "sret_t").arrays["perms"])


def near_one(value: Tensor) -> Tensor:
    """The coefficients with which blocks weigh fully."""
    return 1 + value


FULL = {"*.coefficient?.bias": near_one}


def permuted(permutations: Tensor) -> Callable[[Any, Tensor], Tensor]:
    """Calls a sliced model with draws of its first stage."""
    return lambda model, x: model(x, [list(permutations), [], []])


def test_model_matches_the_release() -> None:
    recorded, identity = permuted(RECORDED), permuted(torch.arange(784).expand(2, 784))
    forms = {
        "identity_perm": Form(call=identity),
        "coefficient_plus_1": Form(FULL, recorded),
        "coefficient_plus_1_identity_perm": Form(FULL, identity),
    }
    check_model("sret", "sret_t", call=recorded, forms=forms)


def test_model_without_slices_matches_the_release() -> None:
    check_model("sret", "sret_t_wo_slice", forms={"coefficient_plus_1": Form(FULL)})
