"""RVT gives the released implementation's outputs and gradients to float32 rounding."""

from tests.parity import check_model


def test_model_matches_the_release() -> None:
    check_model("rvt", "rvt_tiny_self_att", "rvt_tiny")
