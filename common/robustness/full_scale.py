"""Full-scale claims that every architecture shares: accuracy on ImageNet and its robustness variants.

``CLAIMS`` goes into a paper's declaration, which must stay light; ``full_scale_measures`` has the functions.
"""

from __future__ import annotations

from common.declaration import Claim

#: Claim and function, need (the folder's option), data set, metrics, statement.
_SETS: tuple[tuple[str, str, str, tuple[str, ...], str], ...] = (
    ("imagenet", "imagenet", "imagenet-1k", ("top1",), "Top-1 accuracy on ImageNet's validation set."),
    (
        "imagenet_attacks",
        "imagenet",
        "imagenet-1k",
        ("fgsm_top1", "pgd_top1", "pgd_eps4_top1"),
        "Top-1 accuracy on ImageNet's validation set under FGSM and PGD.",
    ),
    ("imagenet_c", "imagenet-c", "imagenet-c", ("mce",), "Mean corruption error on ImageNet-C."),
    ("imagenet_v2", "imagenet-v2", "imagenet-v2", ("top1",), "Top-1 accuracy on ImageNet-V2."),
    ("imagenet_a", "imagenet-a", "imagenet-a", ("top1",), "Top-1 accuracy on ImageNet-A over its 200 classes."),
    ("imagenet_r", "imagenet-r", "imagenet-r", ("top1",), "Top-1 accuracy on ImageNet-R over its 200 classes."),
    ("imagenet_sketch", "imagenet-sketch", "imagenet-sketch", ("top1",), "Top-1 accuracy on ImageNet-Sketch."),
    ("stylized_imagenet", "stylized-imagenet", "stylized-imagenet", ("top1",), "Top-1 accuracy on Stylized-ImageNet."),
    ("objectnet", "objectnet", "objectnet", ("top1",), "Top-1 accuracy on ObjectNet over the shared classes."),
)

CLAIMS: tuple[Claim, ...] = tuple(
    Claim(
        name=name,
        statement=statement,
        kind="numbers",
        needs=(need, "checkpoint"),
        settles=tuple((dataset, metric) for metric in metrics),
        measured_by=f"common.robustness.full_scale_measures:{name}",
    )
    for name, need, dataset, metrics, statement in _SETS
)
