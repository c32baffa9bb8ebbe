"""Claims on detection and segmentation that architectures share, for a paper's declaration; it must stay light.

They are measured by ``./reproduce.sh SLUG downstream``, through OpenMMLab, which is imported then.
"""

from __future__ import annotations

from common.declaration import Claim

#: Claim, needs, data set, metrics, statement.
_SETS: tuple[tuple[str, tuple[str, ...], str, tuple[str, ...], str], ...] = (
    (
        "detection",
        ("coco",),
        "coco-val2017",
        ("box_ap", "mask_ap", "params"),
        "Box and mask AP on COCO's validation set.",
    ),
    (
        "detection_corruption",
        ("coco", "corruptions"),
        "coco-c",
        ("box_ap", "mask_ap"),
        "Mean AP under corruption of COCO (COCO-C).",
    ),
    ("segmentation", ("ade20k",), "ade20k-val", ("miou", "params"), "Mean IoU on ADE20K's validation set."),
    (
        "segmentation_corruption",
        ("ade20k", "corruptions"),
        "ade20k-c",
        ("miou",),
        "Mean IoU under corruption of ADE20K (ADE20K-C).",
    ),
    ("cityscapes", ("cityscapes",), "cityscapes-val", ("miou", "params"), "Mean IoU on Cityscapes' validation set."),
    (
        "cityscapes_corruption",
        ("cityscapes", "corruptions"),
        "cityscapes-c",
        ("miou",),
        "Mean IoU under corruption of Cityscapes.",
    ),
)

#: At full scale: the weights of a detector or segmenter that the user gives, or a training.
CLAIMS: tuple[Claim, ...] = tuple(
    Claim(
        name=name,
        statement=statement,
        needs=("downstream", *needs),
        settles=tuple((dataset, metric) for metric in metrics),
        measured_by=f"downstream.measure:{name}",
    )
    for name, needs, dataset, metrics, statement in _SETS
)

#: On the embedded composition: the paper's ``claims.py`` has ``downstream_backbones()``.
EMBEDDED: tuple[Claim, ...] = (
    Claim(
        name="embedded_detection",
        statement="Small backbones carry Mask R-CNN: trained ones beat untrained ones on canvases of garments.",
        needs=("downstream", "embedded"),
        measured_by="downstream.embedded:detection",
    ),
    Claim(
        name="embedded_segmentation",
        statement="Small backbones carry UPerNet: trained ones beat untrained ones on canvases of garments.",
        needs=("downstream", "embedded"),
        measured_by="downstream.embedded:segmentation",
    ),
)
