"""Registration of our operators as ``mmcv._ext``, the module that a compiled mmcv brings along.

mmcv's Python (``mmcv/ops/*.py``) calls its compiled operators through the module ``mmcv._ext``, and asks for their
names when it is imported. A finder at the end of `sys.meta_path` answers for that module. Python asks it only when no
other finder has one, so a compiled ``mmcv._ext`` always goes first, and nothing of mmcv is changed.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType
from typing import Any, NoReturn

from common.errors import UserError

EXTENSION = "mmcv._ext"

#: Where each operator is: modules of this package, named like those of ``mmcv.ops``, and the functions that mmcv calls.
#: They are what the configs in ``downstream/configs`` and ``papers/<slug>/downstream`` reach.
PROVIDED: dict[str, tuple[str, ...]] = {
    "focal_loss": ("sigmoid_focal_loss_forward", "sigmoid_focal_loss_backward"),
    "info": ("get_compiler_version", "get_compiling_cuda_version"),
    "nms": ("nms",),
    "roi_align": ("roi_align_forward", "roi_align_backward"),
}


class _Extension(ModuleType):
    """``mmcv._ext`` without compiled code: has every name, and says at the call which operators it lacks."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__} has no attribute {name}")

        def missing(*_arguments: Any, **_options: Any) -> NoReturn:
            raise UserError(
                f"mmcv's operator {name} is not provided here and needs mmcv's compiled build; install it in place of "
                "mmcv-lite (pip uninstall -y mmcv-lite && pip install --no-binary mmcv mmcv==2.1.0) to use it"
            )

        missing.__name__ = name
        return missing


class _Finder(MetaPathFinder, Loader):
    """Finds and loads ``mmcv._ext``, last of all finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Answer for ``mmcv._ext`` alone."""
        return importlib.machinery.ModuleSpec(fullname, self) if fullname == EXTENSION else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the module, still empty."""
        return _Extension(spec.name, __doc__)

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module with the operators that we have."""
        for source, names in PROVIDED.items():
            functions = importlib.import_module(f"downstream.operators.{source}")
            for name in names:
                setattr(module, name, getattr(functions, name))


def register() -> None:
    """Let ``import mmcv._ext`` find our operators where there is no compiled one. Calling it again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def compiled() -> bool:
    """Return whether mmcv's own compiled operators are in use."""
    spec = importlib.util.find_spec(EXTENSION)
    return spec is not None and not isinstance(spec.loader, _Finder)
