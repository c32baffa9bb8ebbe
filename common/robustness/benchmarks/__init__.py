"""Benchmark sets behind one interface: ``benchmark(name, root)``."""

from .base import Benchmark, Cell, Stage, Value
from .sets import BENCHMARKS, benchmark

__all__ = ["BENCHMARKS", "Benchmark", "Cell", "Stage", "Value", "benchmark"]
