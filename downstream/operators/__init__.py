"""mmcv's operators in torch and torchvision, for machines without mmcv's compiled build.

Each module is named like the one of ``mmcv.ops`` that it serves. Its functions have the names and calling conventions
of mmcv's compiled module, ``mmcv._ext``: results are written into tensors that the caller allocated. Users call
``mmcv.ops``; `downstream.operators.registration` puts the functions where mmcv looks for them.
"""
