"""What the mask does, exactly: nothing among patches of one object, everything between different ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from common.measurement import Finding
from papers.oamixer.layers import MaskedConv, MaskedTokenMlp
from papers.oamixer.model import ObjectAwareConViT, ObjectAwareConvMixer, ObjectAwareMixer, ObjectAwareViT

#: Float64 rounding of a few layers.
TOLERANCE = 1e-9
SIDE, GRID = 32, 4

#: Small networks of 4 x 4 patches.
NETWORKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "ViT": (ObjectAwareViT, {"embed_dim": 24, "num_heads": 2, "depth": 2, "img_size": SIDE, "patch_size": 8}),
    "ConViT": (
        ObjectAwareConViT,
        {"embed_dim": 6, "num_heads": 4, "depth": 2, "local_up_to_layer": 1, "img_size": SIDE, "patch_size": 8},
    ),
    "Mixer": (ObjectAwareMixer, {"embed_dim": 16, "num_blocks": 1, "img_size": SIDE, "patch_size": 8}),
    "ConvMixer": (ObjectAwareConvMixer, {"dim": 16, "depth": 1, "kernel_size": 3, "patch_size": 8}),
}


def small(kind: str, kappa: float) -> Any:
    """A network in float64 whose masks have this scale, with weights large enough that each can be seen."""
    torch.manual_seed(0)
    build, arguments = NETWORKS[kind]
    network = build(num_classes=7, **arguments).double().eval()
    for name, parameter in network.named_parameters():
        nn.init.constant_(parameter, kappa) if name.endswith("mask_scale") else nn.init.normal_(parameter, std=0.3)
    return network


def images() -> Tensor:
    """Two images (2, 3, H, W)."""
    return torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def halves() -> Tensor:
    """Labels (2, N, 2): the left half of the patches shows one object, the right half another."""
    right = (torch.arange(GRID) >= GRID // 2).repeat(GRID)
    return torch.stack((~right, right), dim=-1).double().expand(2, -1, -1)


@torch.no_grad()
def one_object() -> Iterator[Finding]:
    """Networks whose patches all show one object, and such whose scale is zero, against their hosts."""
    x, errors, at_zero, changed = images(), {}, {}, {}
    one = torch.full((2, GRID**2, 3), 1 / 3, dtype=torch.float64)
    for kind in NETWORKS:
        network = small(kind, kappa=2.0)
        host = network(x)
        errors[kind] = relative(network(x, one), host)
        changed[kind] = relative(network(x, halves()), host)
        at_zero[kind] = relative(small(kind, kappa=0.0)(x, halves()), host)
    yield _exact("one_object", "Where all patches show one object a network is its host.", errors)
    yield _exact("zero_scale", "So it is where the scale is zero, as at the start of training.", at_zero)
    least = min(changed.values())
    yield Finding.exactly(
        name="two_objects",
        statement="With two objects and a scale above zero it is another function.",
        holds=least > 1e-4,
        evidence=f"Relative difference {_list(changed)}.",
        value=least,
    )


@torch.no_grad()
def separation() -> Iterator[Finding]:
    """Layers with a large scale and patches of two objects: what of one half reaches the other."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, GRID**2, dtype=torch.float64, generator=generator)
    right = halves()[..., 1].bool()[0]
    changed = x.clone()
    changed[:, :, right] = torch.randn(2, 3, int(right.sum()), dtype=torch.float64, generator=generator)
    reach: dict[str, float] = {}
    open_reach: dict[str, float] = {}
    apart = torch.cdist(halves(), halves(), p=1)
    for name, layer in _linear_layers().items():
        for found, distance in ((reach, apart), (open_reach, None)):
            seen, other = (layer(each, distance)[..., ~right] for each in (x, changed))
            found[name] = relative(other, seen)
    yield _exact("separate", "At a large scale nothing of one object's patches reaches those of another.", reach)
    least = min(open_reach.values())
    yield Finding.exactly(
        name="mixed",
        statement="Without the mask it does.",
        holds=least > 1e-3,
        evidence=f"Relative change {_list(open_reach)}.",
        value=least,
    )


def _linear_layers() -> dict[str, Any]:
    """Layers over patches (B, C, N), of a large scale, that are linear: the mask covers all that they mix."""
    torch.manual_seed(0)
    mlp: Any = nn.Module.__new__(MaskedTokenMlp)
    MaskedTokenMlp.__init__(mlp, GRID**2, 8, act_layer=nn.Identity)
    mlp.add_mask("exp")
    convolution = MaskedConv(3, "exp")
    for layer in (mlp, convolution):
        layer.double()
        nn.init.constant_(layer.mask_scale, 1e3)

    def convolve(x: Tensor, distance: Tensor | None) -> Tensor:
        return convolution(x.unflatten(2, (GRID, GRID)), distance).flatten(2)

    return {"MLP without activation": mlp, "convolution": convolve}


def relative(ours: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest magnitude."""
    return float((ours - expected).abs().max() / expected.abs().max())


def _exact(name: str, statement: str, errors: dict[str, float]) -> Finding:
    return Finding.exactly(
        name=name,
        statement=statement,
        holds=max(errors.values()) <= TOLERANCE,
        evidence=f"Largest relative difference {_list(errors)} (bound {TOLERANCE:.0e}).",
        value=max(errors.values()),
    )


def _list(values: dict[str, float]) -> str:
    return ", ".join(f"{value:.1e} ({name})" for name, value in values.items())
