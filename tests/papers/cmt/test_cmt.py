"""CMT: parity with the released implementation, sizes of images, and what its claims measure."""

from __future__ import annotations

from tests.parity import check_model


def test_model_matches_the_release() -> None:
    check_model("cmt", "cmt_ti")
