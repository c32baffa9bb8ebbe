"""Shape bias on texture-shape cue conflict images (Geirhos et al., arXiv 1811.12231)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from common.errors import UserError


class ShapeBias(NamedTuple):
    """Decisions on cue conflict images, in [0, 1].

    Attributes:
        shape, texture: shares of all images decided by shape and by texture.
        bias: shape / (shape + texture).
    """

    shape: float
    texture: float
    bias: float


def shape_bias(decisions: Sequence[object], shapes: Sequence[object], textures: Sequence[object]) -> ShapeBias:
    """Shape bias as the released evaluation computes it.

    Images whose shape and texture agree have no conflict and count as neither, but they stay in the denominator of
    the two shares; the bias does not depend on them.

    Args:
        decisions: the model's category for each image.
        shapes: the category of its shape.
        textures: the category of its texture.
    """
    if not len(decisions) == len(shapes) == len(textures) > 0:
        raise UserError("shape bias needs a decision, a shape and a texture for each of one or more images.")
    conflicts = [(d, s, t) for d, s, t in zip(decisions, shapes, textures, strict=True) if s != t]
    by_shape = sum(d == s for d, s, _ in conflicts)
    by_texture = sum(d == t for d, _, t in conflicts)
    if by_shape + by_texture == 0:
        raise UserError("shape bias is undefined: no decision names the shape or the texture of its image.")
    return ShapeBias(by_shape / len(decisions), by_texture / len(decisions), by_shape / (by_shape + by_texture))
