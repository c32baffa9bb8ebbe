"""The size of models as measurements, and the claim ``size`` of every paper that prints or declares architectures."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import timm
from torch import nn

from common.manifest import load_manifest
from common.measurement import Measurement
from common.profiling.counting import flops, parameters
from common.protocols import OffersSizes
from common.shapes import shapes_only

if TYPE_CHECKING:
    from common.run import Run


def size(run: Run) -> Iterator[Measurement]:
    """Count every declared model of the run's paper, under each name for which the manifest prints a size.

    Names of one model differ in the tag of their weights (``rvt_small_plus.easyrobust``); a model of which nothing is
    printed is counted under its own. Models are built for their shapes alone, so that a quick run counts all, too. A
    paper that counts otherwise (as its release does, or several forms of a model) is
    :class:`common.protocols.OffersSizes`.
    """
    own = importlib.import_module(f"{run.paper.package}.claims")
    counted_by = own.model_size if isinstance(own, OffersSizes) else model_size
    manifest = load_manifest(run.paper.manifest)
    printed = manifest[(manifest["dataset"] == "-") & manifest["metric"].isin(("params", "flops"))]["model"].unique()
    for declared in run.paper.all_models:
        counted = list(counted_by(declared.name))
        forms = {measurement.model for measurement in counted} - {declared.name}
        names = [name for name in printed if name.partition(".")[0] == declared.name and name not in forms]
        for measurement in counted:
            if measurement.model in forms:
                yield measurement
            else:
                yield from (replace(measurement, model=name) for name in names or [declared.name])


def model_size(name: str, *, form: str = "", **arguments: Any) -> Iterator[Measurement]:
    """Parameters and multiply-adds of timm's model ``name`` at its own input size, measured as ``name`` or ``form``.

    ``arguments`` are those of ``timm.create_model``.
    """
    with shapes_only():
        model: Any = timm.create_model(name, **arguments)
    yield from count(model, form or name, model.pretrained_cfg["input_size"])


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
        protocol=f"flops/2 multiply-adds at {input_size[-1]} pixels, fvcore's conventions, batch norm on its own",
        detail={"by_operator": operations.by_operator, "not_counted": operations.not_counted},
    )
