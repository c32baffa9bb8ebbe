"""How much attention falls on the object, as VARS's claim measures it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from papers.vars import attention_maps as maps
from papers.vars import claims


class _Uniform(nn.Module):
    """Attends everywhere alike, on a grid of 7x7 tokens."""

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        return [torch.full((len(x), 2, 7, 7), 1 / 49)] * 3


def test_attention_everywhere_is_on_the_object_as_often_as_the_object_covers() -> None:
    for canvases in maps.test_canvases(quick=True).values():
        found = torch.from_numpy(maps.on_object(_Uniform(), canvases, "cpu"))
        torch.testing.assert_close(found, canvases.masks.float().mean(dim=(2, 3)))


def test_noise_changes_the_images_and_not_the_masks() -> None:
    clean, noisy = maps.test_canvases(quick=True).values()
    assert torch.equal(clean.masks, noisy.masks)
    assert (clean.images != noisy.images).float().mean() > 0.5


def test_every_contender_has_shares_by_canvas() -> None:
    contender = claims.contenders()[-1]
    torch.manual_seed(0)
    found = maps.shares(contender.build().eval(), contender.settings(quick=True), quick=True)
    for metric in (maps.CLEAN, maps.CORRUPTED):
        assert found[metric].shape == (maps.CELLS, 50)
        assert ((found[metric] >= 0) & (found[metric] <= 1)).all()
