"""The size of a model as measurements: what every architecture's claim ``size`` yields."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from common.measurement import Measurement
from common.profiling.counting import flops, parameters


def count(model: nn.Module, name: str, input_size: tuple[int, int, int] = (3, 224, 224)) -> Iterator[Measurement]:
    """Parameters (M) and multiply-adds of one image (G) of ``model``, measured as ``name``."""
    counted = parameters(model)
    yield Measurement(
        model=name,
        dataset="-",
        metric="params",
        value=counted.total / 1e6,
        unit="M",
        protocol="params/1 all parameters, frozen ones included",
        detail={"trainable": counted.trainable},
    )
    operations = flops(model, input_size)
    yield Measurement(
        model=name,
        dataset="-",
        metric="flops",
        value=operations.total / 1e9,
        unit="G",
        protocol=f"flops/1 multiply-adds at {input_size[-1]} pixels, fvcore's conventions",
        detail={"by_operator": operations.by_operator, "not_counted": operations.not_counted},
    )
