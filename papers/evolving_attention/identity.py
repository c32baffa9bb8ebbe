"""What evolving attention is when nothing evolves, and what it adds, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import timm
import torch

from common.measurement import Finding
from common.shapes import shapes_only
from papers.evolving_attention.model import HEADS, EvolvingVisionTransformer
from papers.evolving_attention.series import EADCTransformer

ROUNDING = 1e-10
_VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
_SERIES: dict[str, Any] = {
    "variables": 3,
    "length": 12,
    "outputs": 4,
    "dim": 32,
    "hidden": 32,
    "depth": 2,
    "mlp_dim": 16,
}


def _distance(alpha: float, beta: float) -> tuple[float, float]:
    """How far outputs are from a plain network's of the same weights: of a vision transformer, of a time-series one."""
    torch.manual_seed(0)
    evolving = EvolvingVisionTransformer(alpha=alpha, beta=beta, **_VIT).double().eval()
    plain = timm.models.VisionTransformer(**_VIT).double().eval()
    common = {name: value for name, value in evolving.state_dict().items() if ".evolution." not in name}
    plain.load_state_dict(common)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    series = EADCTransformer(alpha=alpha, beta=beta, **_SERIES).double().eval()
    alone = EADCTransformer(alpha=alpha, beta=beta, **_SERIES).double().eval()
    alone.load_state_dict(series.state_dict())
    for block in alone.blocks:
        block.conv1.evolution = block.conv2.evolution = None  # type: ignore[union-attr]
    x, mask = torch.randn(2, 12, 3, dtype=torch.float64), torch.ones(2, 12, dtype=torch.bool)
    with torch.no_grad():
        return (
            float((evolving(images) - plain(images)).abs().max()),
            float((series(x, mask) - alone(x, mask)).abs().max()),
        )


def plain() -> Iterator[Finding]:
    """Compare with networks without evolution, with both weights at zero and with each at 0.5."""
    still = _distance(0.0, 0.0)
    moved = [min(_distance(alpha, beta)) for alpha, beta in ((0.5, 0.0), (0.0, 0.5))]
    yield Finding.exactly(
        name="plain",
        statement="With both weights at zero it is the plain network; each weight alone changes it.",
        holds=max(still) < ROUNDING < min(moved),
        evidence=(
            f"Outputs differ by {max(still):.1e} with both at zero, and by at least {min(moved):.1e} with one at 0.5."
        ),
        value=max(still),
    )


def overhead() -> Finding:
    """Count the parameters that convolutions over maps add to the released residual network."""
    with shapes_only():
        counts = [
            sum(p.numel() for p in timm.create_model("ea_resnet50", alpha=alpha).parameters()) for alpha in (1.0, 0.0)
        ]
    added, expected = counts[0] - counts[1], 11 * HEADS * (9 * HEADS + 1)
    return Finding.exactly(
        name="overhead",
        statement="Convolutions over maps add next to no parameters.",
        holds=added == expected and added < 1e-3 * counts[0],
        evidence=f"EA-ResNet-50 has {counts[0]:,}, of which {added:,} are those of 11 convolutions of {HEADS} heads.",
        value=float(added),
    )
