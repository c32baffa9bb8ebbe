"""mmcv finds our operators where its compiled ones are absent, and says what is missing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import mmcv.ops
import pytest
import torch
from mmcv.utils import ext_loader

from common.errors import UserError
from downstream import installation
from downstream.operators import registration

ours = pytest.mark.skipif(registration.compiled(), reason="a compiled mmcv is installed and serves instead")


@ours
def test_mmcv_uses_our_operators() -> None:
    import mmcv._ext

    for module, names in registration.PROVIDED.items():
        for name in names:
            assert getattr(mmcv._ext, name).__module__ == f"downstream.operators.{module}"
    assert ext_loader.check_ops_exist()
    assert torch.__version__ in mmcv.ops.get_compiler_version()
    assert mmcv.ops.get_compiling_cuda_version()


@ours
def test_missing_operator_is_named_when_it_is_called() -> None:
    with pytest.raises(UserError, match=r"operator border_align_forward .* compiled .* mmcv==2\.1\.0"):
        mmcv.ops.border_align(torch.zeros(1, 4, 3, 3), torch.zeros(1, 9, 4), 2)
    with pytest.raises(UserError, match="operator nms_rotated "):
        mmcv.ops.nms_rotated(torch.rand(3, 5), torch.rand(3), 0.5)


def test_registering_twice_changes_nothing() -> None:
    finders = list(sys.meta_path)
    registration.register()
    assert sys.meta_path == finders


def test_compiled_operators_go_first(tmp_path: Path) -> None:
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv/__init__.py").touch()
    (tmp_path / "mmcv/_ext.py").write_text("kind = 'compiled'\n")
    root = Path(installation.__file__).parents[1]
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]\n"
        "import downstream, mmcv._ext\n"
        "from downstream.operators.registration import compiled\n"
        "print(mmcv._ext.kind, compiled())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "compiled True\n", done.stderr


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert importlib.util.find_spec("mmnothing") is None
    monkeypatch.setitem(installation.PACKAGES, "mmnothing", "mmnothing==1.0")
    with pytest.raises(UserError, match=r"pip install mmnothing==1\.0$"):
        installation.check()


def test_opencv_without_its_libraries_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # importing it fails, as without libGL
    with pytest.raises(UserError, match="opencv-python-headless"):
        installation.check()
