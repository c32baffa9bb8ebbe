"""Compositions: masks, boxes and maps agree with the pixels, and the stated overlap rule holds."""

from __future__ import annotations

import pytest
import torch

from common.data.composition import SPECK, VISIBLE, Background, compose, place_on_canvas
from common.errors import UserError


@pytest.fixture(scope="module")
def source():
    """Forty blobs in a black frame: image i has grey values of its own, so that pixels tell where they come from."""
    images = torch.zeros(40, 28, 28, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    for i in range(40):
        top, left = torch.randint(0, 8, (2,), generator=generator).tolist()
        images[i, top : top + 20 - i % 5, left : left + 10 + i % 7] = 50 + 5 * i
    return images, torch.arange(40) % 10


def draw(source, seed=0, **changes):
    settings = {"count": 64, "size": 56, "garments": (1, 4), "scale": (1.0, 1.0), **changes}
    return compose(*source, generator=torch.Generator().manual_seed(seed), **settings)


def test_masks_are_the_visible_pixels_of_each_garment(source):
    images, labels = source
    drawn = draw(source)
    assert drawn.masks.sum(1).max() == 1
    values = images.flatten(1).amax(1)
    for canvas in range(64):
        seen = torch.zeros(56, 56, dtype=torch.bool)
        for index, mask in zip(drawn.indices[canvas], drawn.masks[canvas], strict=True):
            if index >= 0:
                assert (drawn.images[canvas][mask] == values[index]).all()
            else:
                assert not mask.any()
            seen |= mask
        assert (drawn.images[canvas][~seen] == 0).all()
    present = drawn.present
    assert torch.equal(drawn.labels[present], labels[drawn.indices[present]])
    assert (drawn.labels[~present] == -1).all()


def test_boxes_enclose_the_masks(source):
    drawn = draw(source)
    for mask, box, present in zip(*(x.flatten(0, 1) for x in (drawn.masks, drawn.boxes, drawn.present)), strict=True):
        if present:
            rows, columns = mask.nonzero(as_tuple=True)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == expected
        else:
            assert box.tolist() == [0, 0, 0, 0]


def test_the_semantic_map_is_the_union_of_the_masks(source):
    drawn = draw(source)
    expected = (drawn.masks * (drawn.labels + 1)[..., None, None]).sum(1)
    assert torch.equal(drawn.semantic, expected)
    assert drawn.semantic.max() == 10


def test_enough_of_each_garment_stays_visible(source):
    images, _ = source
    drawn = draw(source, count=300, size=40, garments=(4, 4))
    areas = (images > SPECK).flatten(1).sum(1)
    visible = drawn.masks.sum((-1, -2))[drawn.present] / areas[drawn.indices[drawn.present]]
    assert visible.min() >= VISIBLE
    assert visible.min() < 1  # there is overlap at all
    assert drawn.present[:, 0].all()
    assert not drawn.present.all()  # on this small canvas some do not fit


def test_scaled_garments_have_scaled_boxes(source):
    image = torch.full((1, 28, 28), 200, dtype=torch.uint8)
    drawn = compose(
        image,
        torch.zeros(1, dtype=torch.int64),
        count=200,
        size=60,
        garments=(1, 1),
        scale=(0.5, 2.0),
        generator=torch.Generator().manual_seed(0),
    )
    sides = drawn.boxes[:, 0, 2:] - drawn.boxes[:, 0, :2]
    assert torch.equal(sides[:, 0], sides[:, 1])
    assert sides.min() in (14, 15)
    assert sides.max() in (55, 56)
    assert drawn.boxes.min() == 0
    assert drawn.boxes.max() == 60


def test_positions_reach_every_corner(source):
    image = torch.full((1, 28, 28), 200, dtype=torch.uint8)
    drawn = compose(
        image,
        torch.zeros(1, dtype=torch.int64),
        count=400,
        size=31,
        garments=(1, 1),
        scale=(1.0, 1.0),
        generator=torch.Generator().manual_seed(0),
    )
    corners = drawn.boxes[:, 0, :2].unique(dim=0)
    assert len(corners) == 16


def test_the_generator_alone_decides(source):
    background = Background(noise=0.2, clutter=5)
    first, same, other = (draw(source, seed, background=background, scale=(0.7, 1.3)) for seed in (1, 1, 2))
    for name in ("images", "masks", "boxes", "labels", "semantic", "indices"):
        assert torch.equal(getattr(first, name), getattr(same, name))
    assert not torch.equal(first.images, other.images)


def test_background_is_behind(source):
    images, _ = source
    plain = draw(source, count=100, garments=(1, 1))
    noisy = draw(source, count=100, garments=(1, 1), background=Background(noise=0.1))
    assert noisy.images[~noisy.masks[:, 0]].max() == 26
    assert noisy.images[~noisy.masks[:, 0]].min() == 0
    assert torch.equal(plain.labels >= 0, noisy.labels >= 0)
    cluttered = draw(source, count=100, garments=(1, 1), background=Background(clutter=6))
    outside = cluttered.images * ~cluttered.masks[:, 0]
    share = (outside > 0).flatten(1).float().mean(1)
    assert share.mean() > 0.02
    assert share.max() <= 6 * 64 / 56**2
    values = images.flatten(1).amax(1)
    assert (cluttered.images[cluttered.masks[:, 0]] >= values.min()).all()


def test_one_garment_a_canvas(source):
    images, labels = source
    placed = place_on_canvas(images, labels, size=64, generator=torch.Generator().manual_seed(0))
    assert placed.images.shape == (40, 64, 64)
    assert placed.masks.shape == (40, 1, 64, 64)
    assert torch.equal(placed.labels[:, 0], labels)
    assert torch.equal(placed.indices[:, 0], torch.arange(40))
    assert torch.equal(placed.semantic > 0, placed.masks[:, 0])
    same_size = place_on_canvas(images, labels, size=64, side=28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(same_size.masks[:, 0].sum((1, 2)), (images > SPECK).sum((1, 2)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"garments": (0, 2)}, "range from 1 up, not 0 to 2"),
        ({"garments": (3, 2)}, "range from 1 up, not 3 to 2"),
        ({"scale": (0.0, 1.0)}, "range above 0"),
        ({"scale": (3.0, 3.0)}, "A garment of 84 pixels does not fit a canvas of 56"),
    ],
)
def test_mistakes_are_one_sentence(source, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        draw(source, **changes)


def test_mistaken_images_and_backgrounds(source):
    images, labels = source
    with pytest.raises(UserError, match="must be uint8"):
        draw((images.float(), labels))
    with pytest.raises(UserError, match="Labels must be 40 numbers"):
        draw((images, labels[:5]))
    with pytest.raises(UserError, match=r"noise must lie in \[0, 1\], not 2"):
        Background(noise=2)
    with pytest.raises(UserError, match="-1 pieces"):
        Background(clutter=-1)
