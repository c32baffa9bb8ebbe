"""Detection and segmentation: what the papers' backbones are worth downstream, through OpenMMLab.

Import this package before anything of mmcv, mmdet or mmseg: it makes ``mmcv.ops`` work where mmcv's compiled module is
absent (`downstream.operators`).
"""

from __future__ import annotations

from downstream.installation import check
from downstream.operators.registration import register

check()
register()
