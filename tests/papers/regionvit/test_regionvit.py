"""RegionViT: parity with the released implementation, what its layers compute, and what its claims measure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.parity import Form, check_model, images

#: Norms of maps, which the plain fill leaves near zero, so that outputs hardly depend on the image.
MAP_NORMS = ("patch_embed.proj.1.weight", "patch_embed.proj.4.weight", "layers.*.block.0.proj.0.weight")


def patterned(model: nn.Module, x: Tensor) -> Tensor:
    """The model on noise with a pattern that regional tokens can see."""
    return model(3 * x + 3 * images(2, 3, 7, 7, seed=5).repeat_interleave(32, 2).repeat_interleave(32, 3).to(x.device))


@pytest.mark.parametrize("variant", ["regionvit_tiny", "regionvit_small_w14_peg"])
def test_model_matches_the_release(variant: str) -> None:
    strong = Form(vary=dict.fromkeys(MAP_NORMS, lambda weight: weight + 1), call=patterned)
    check_model("regionvit", variant, forms={"strong": strong})
