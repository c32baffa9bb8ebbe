"""A small SReT for the bench, and what its loops are compared with.

All networks have the same number of parameters to within 1 %: an MLP is as narrow as the projections after its block
ask for, one for each application.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from common import bench
from common.bench import hosts
from papers.sret.model import Block, Projection, SReT

MINI = "sret_mini"
ONE, THREE, PLAIN = f"{MINI}.one_loop", f"{MINI}.three_loops", f"{MINI}.plain_recursion"

#: One block for 7x7 tokens, which are too few for slices.
SETTINGS: dict[str, Any] = {
    "img_size": hosts.SIDE,
    "num_classes": hosts.CLASSES,
    "head_dim": 16,
    "num_heads": (3,),
    "depths": (1,),
    "groups": ((1, 1),),
    "mlp_ratio": 2.0,
    "stem_strides": (2, 2),
    "drop_path_rate": 0.0,
}


def sret_mini(**changes: Any) -> SReT:
    """An SReT of one block; ``changes`` are arguments of :class:`SReT` that differ.

    As in the bench's hosts, what ends a residual branch starts at zero.
    """
    model = SReT(**{**SETTINGS, **changes})
    hosts.initialise(model)
    for part in model.modules():
        if isinstance(part, Block | Projection):
            nn.init.zeros_(part.mlp.fc2.weight)
    return model


def contenders() -> list[bench.Contender]:
    """A block that is applied twice, once and three times; twice, too, without projections and coefficients."""
    return [
        bench.Contender(MINI, sret_mini),
        bench.Contender(ONE, partial(sret_mini, loops=1, mlp_ratio=3.0)),
        bench.Contender(THREE, partial(sret_mini, loops=3, mlp_ratio=1.0)),
        bench.Contender(PLAIN, partial(sret_mini, projection_ratio=0.0, coefficients=False, mlp_ratio=4.05)),
    ]
