"""Importing the package before anything of mmcv registers our operators."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest

import downstream  # noqa: F401
from downstream.operators import registration


@pytest.fixture
def our_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mmcv's Python call our operators, also where a compiled mmcv is installed."""
    ours = SimpleNamespace(
        **{
            function: getattr(importlib.import_module(f"downstream.operators.{module}"), function)
            for module, functions in registration.PROVIDED.items()
            for function in functions
        }
    )
    for module in [module for key, module in sys.modules.items() if key.startswith("mmcv.ops.")]:
        if hasattr(module, "ext_module"):
            monkeypatch.setattr(module, "ext_module", ours)
