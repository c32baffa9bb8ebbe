"""Importing the package before anything of mmcv registers our operators."""

import downstream  # noqa: F401
