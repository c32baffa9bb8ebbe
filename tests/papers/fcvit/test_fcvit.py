"""FCViT: parity with the released implementation, what its context does, and what its claims measure."""

from __future__ import annotations

from torch import Tensor

from tests.parity import check_model


def near_one(scale: Tensor) -> Tensor:
    """The layer scales with which blocks weigh fully."""
    return 1 + 5 * scale


def test_model_matches_the_release() -> None:
    check_model("fcvit", "fcvit_tiny")
    scales = {"*.layer_scale_1": near_one, "*.layer_scale_2": near_one}
    check_model("fcvit", "fcvit_tiny_ls1", "fcvit_tiny", vary=scales)
