"""Full-scale claims that every architecture shares: accuracy on ImageNet and its robustness variants.

``CLAIMS`` goes into a paper's declaration, which must stay light; ``full_scale_measures`` has the functions.
"""

from __future__ import annotations

from common.declaration import Claim

#: Claim and function, need (the folder's option), data set, metrics, statement.
_SETS: tuple[tuple[str, str, str, tuple[str, ...], str], ...] = (
    (
        "imagenet",
        "imagenet",
        "imagenet-1k",
        ("top1", "top5", "top1_error"),
        "Top-1 accuracy on ImageNet's validation set.",
    ),
    (
        "imagenet_attacks",
        "imagenet",
        "imagenet-1k",
        ("fgsm_top1", "pgd_top1", "pgd_eps4_top1"),
        "Top-1 accuracy on ImageNet's validation set under FGSM and PGD.",
    ),
    (
        "imagenet_c",
        "imagenet-c",
        "imagenet-c",
        ("mce", "corruption_top1"),
        "Mean corruption error, and mean accuracy, on ImageNet-C.",
    ),
    ("imagenet_v2", "imagenet-v2", "imagenet-v2", ("top1", "top5"), "Top-1 accuracy on ImageNet-V2."),
    ("imagenet_a", "imagenet-a", "imagenet-a", ("top1", "top5"), "Top-1 accuracy on ImageNet-A over its 200 classes."),
    (
        "imagenet_r",
        "imagenet-r",
        "imagenet-r",
        ("top1", "top5", "top1_error"),
        "Top-1 accuracy on ImageNet-R over its 200 classes.",
    ),
    ("imagenet_sketch", "imagenet-sketch", "imagenet-sketch", ("top1", "top5"), "Top-1 accuracy on ImageNet-Sketch."),
    ("stylized_imagenet", "stylized-imagenet", "stylized-imagenet", ("top1",), "Top-1 accuracy on Stylized-ImageNet."),
    ("objectnet", "objectnet", "objectnet", ("top1",), "Top-1 accuracy on ObjectNet over the shared classes."),
)

#: The same for networks on images of 32 pixels; only papers that train such networks have them.
_CIFAR: tuple[tuple[str, str, str, tuple[str, ...], str], ...] = tuple(
    row
    for classes in (10, 100)
    for row in (
        (f"cifar_{classes}", f"cifar-{classes}", f"cifar-{classes}", ("top1", "rms_calibration_error"),
         f"Top-1 accuracy and calibration on CIFAR-{classes}'s test set."),
        (f"cifar_{classes}_c", f"cifar-{classes}-c", f"cifar-{classes}-c",
         ("corruption_top1", "corruption_error", "corruption_rms_calibration_error"),
         f"Mean accuracy, mean error and calibration on CIFAR-{classes}-C."),
    )
)  # fmt: skip


def _claims(sets: tuple[tuple[str, str, str, tuple[str, ...], str], ...], module: str) -> tuple[Claim, ...]:
    return tuple(
        Claim(
            name=name,
            statement=statement,
            needs=(need, "checkpoint"),
            settles=tuple((dataset, metric) for metric in metrics),
            measured_by=f"common.robustness.{module}:{name}",
        )
        for name, need, dataset, metrics, statement in sets
    )


CLAIMS: tuple[Claim, ...] = _claims(_SETS, "full_scale_measures")
#: The corruptions of ImageNet-C, as its folders are named.
_CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
#: For papers whose networks others print it for.
CORRUPTION_CELLS = Claim(
    name="corruption_cells",
    statement="Top-1 accuracy under each corruption and severity of ImageNet-C.",
    needs=("imagenet-c", "checkpoint"),
    settles=tuple((f"imagenet-c/{name}/{severity}", "top1") for name in _CORRUPTIONS for severity in range(1, 6)),
    measured_by="common.robustness.full_scale_measures:corruption_cells",
)
CUE_CONFLICT = Claim(
    name="cue_conflict",
    statement="Shape bias on images whose shape and texture are of different categories.",
    needs=("cue-conflict", "checkpoint"),
    settles=(("cue-conflict", "shape_bias"),),
    measured_by="common.robustness.full_scale_measures:cue_conflict",
)
#: For papers that print it.
REAL_CLAIMS: tuple[Claim, ...] = _claims(
    (
        (
            "imagenet_real",
            "imagenet-real",
            "imagenet-real",
            ("top1", "top5"),
            "Top-1 accuracy on ImageNet's validation set by ReaL labels.",
        ),
    ),
    "full_scale_measures",
)
CIFAR_CLAIMS: tuple[Claim, ...] = _claims(_CIFAR, "cifar")
