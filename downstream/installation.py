"""Is what OpenMMLab needs installed? One sentence says what is missing."""

from __future__ import annotations

import importlib.util
import warnings

from common.errors import UserError

#: Module, and the distribution that holds it, as pinned in requirements.lock.
PACKAGES = {
    "mmengine": "mmengine",
    "mmcv": "mmcv-lite==2.1.0",
    "mmdet": "mmdet==3.3.0",
    "mmseg": "mmsegmentation==1.2.2",
    "ftfy": "ftfy",
    "regex": "regex",
    "pkg_resources": '"setuptools<82"',  # mmengine imports it; later setuptools no longer have it
}


def check() -> None:
    """Check that OpenMMLab can be imported, and keep it from warning of what no reader can change.

    Raises:
        UserError: a package is missing, or OpenCV is the desktop build on a machine without its libraries.
    """
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
    missing = [distribution for module, distribution in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(
            "Detection and segmentation need OpenMMLab, not all of which is installed (./reproduce.sh brings it, "
            f"as does pip install 'resight[downstream]'): pip install {' '.join(missing)}"
        )
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        # mmengine and mmcv-lite ask for opencv-python, whose windows need libGL; the headless build does without.
        raise UserError(
            f"OpenCV cannot be imported ({error}); replace its desktop build by the one for servers: "
            "pip uninstall -y opencv-python && pip install --force-reinstall --no-deps opencv-python-headless"
        ) from error
