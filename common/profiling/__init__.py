"""What a model costs: parameters, multiply-adds, time and peak memory."""

from common.profiling.counting import Flops, Parameters, flops, parameters
from common.profiling.memory import peak_memory
from common.profiling.size import count
from common.profiling.timing import (
    Comparison,
    Cost,
    Spread,
    compare_cost,
    cost,
    forward,
    ratio_finding,
    time_measurement,
    training_step,
)

__all__ = [
    "Comparison",
    "Cost",
    "Flops",
    "Parameters",
    "Spread",
    "compare_cost",
    "cost",
    "count",
    "flops",
    "forward",
    "parameters",
    "peak_memory",
    "ratio_finding",
    "time_measurement",
    "training_step",
]
