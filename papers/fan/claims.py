"""How FAN's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator

import timm

from common.measurement import Measurement, Result
from common.profiling import flops, parameters
from common.run import Run
from papers.fan import PAPER

#: Weight tags under which the README prints the size of a model again.
TAGGED = {
    "fan_base_16_p4_hybrid": ("in22k_ft_in1k",),
    "fan_large_16_p4_hybrid": ("in22k_ft_in1k",),
}


def size(run: Run) -> Iterator[Result]:
    """Count every variant: parameters, and multiply-adds at 224 pixels, of which nothing is printed."""
    for declared in PAPER.models:
        model = timm.create_model(declared.name)
        for name in (declared.name, *(f"{declared.name}.{tag}" for tag in TAGGED.get(declared.name, ()))):
            yield Measurement(
                model=name,
                dataset="-",
                metric="params",
                value=parameters(model).total / 1e6,
                unit="M",
                protocol="params/1 all parameters, frozen ones included",
            )
        counted = flops(model)
        yield Measurement(
            model=declared.name,
            dataset="-",
            metric="flops",
            value=counted.total / 1e9,
            unit="G",
            protocol="flops/1 multiply-adds at 224 pixels, fvcore's conventions",
            detail={"by_operator": counted.by_operator, "not_counted": counted.not_counted},
        )
