"""Soft Augmentation: crops that may hide most of an image, and targets that soften as they do."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CIFAR_CLAIMS

PAPER = Paper(
    slug="soft-augmentation",
    title="Soft Augmentation for Image Classification",
    authors=("Yang Liu", "Shen Yan", "Laura Leal-Taixé", "James Hays", "Deva Ramanan"),
    venue="CVPR 2023",
    year=2023,
    kind="augmentation",
    arxiv="2211.04625",
    summary=(
        "Lets the target lose confidence, non-linearly, with how much of the image a crop hides; this permits stronger "
        "crops, doubles what augmentation gains, and halves the calibration error."
    ),
    repository="https://github.com/youngleox/soft_augmentation",
    commit="1dcf469",
    licence="CC BY-NC-SA 4.0",
    bibtex="""@inproceedings{liu2023soft,
  title     = {Soft Augmentation for Image Classification},
  author    = {Liu, Yang and Yan, Shen and Leal-Taix{\\'e}, Laura and Hays, James and Ramanan, Deva},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2023}
}""",
    models=(
        Model(name="resnet18_softaug_cifar", released="resnet18"),
        Model(name="resnet50_softaug_cifar", released="resnet50"),
        Model(name="resnet101_softaug_cifar", released="resnet101"),
        Model(name="wideresnet28_10_softaug_cifar"),
        Model(name="wideresnet28_4_softaug_cifar"),
    ),
    claims=(
        Claim(
            name="soft_crops",
            statement="At equal budget, aggressive crops give better networks with soft targets than with hard ones.",
            needs=("embedded",),
            primary="resnet_mini+soft_crop > resnet_mini+hard_crop: top1",
        ),
        Claim(
            name="calibration",
            statement="With soft targets, the calibration error is lower than with hard ones.",
            needs=("embedded",),
            primary="resnet_mini+soft_crop > resnet_mini+hard_crop: ece",
        ),
        Claim(
            name="occlusion",
            statement="Networks that were trained with soft crops stand more occlusion than those trained without.",
            needs=("embedded",),
            primary="resnet_mini+soft_crop > resnet_mini: occlusion_top1",
        ),
        Claim(
            name="curve",
            statement="Targets go from one-hot for a whole image to chance for a blank one, and the loss follows them.",
            primary="whole",
        ),
        *CIFAR_CLAIMS,
    ),
    deviations=(
        Deviation(
            name="reweight",
            publication="could not be read; its abstract speaks of softened targets alone",
            released="means to count each image by its confidence, and no flag switches that off; weights of shape "
            "(N, 1) times losses of shape (N,) make an N x N table, so that its mean is the mean loss times the mean "
            "confidence of the batch",
            ours="each image counts by its confidence; the released form behind the switch",
            switch='recipe key method.reweight = "image" | "batch" | "none"',
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="last_epochs",
            publication="could not be read",
            released="in the last 21 of 501 epochs crops move a thousandth as far, by less than a pixel: images are "
            "whole, and their targets one-hot",
            ours="no crops in that share of the training",
            switch="recipe key method.cropped",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="side",
            publication="could not be read",
            released="the standard deviation of offsets is 12 pixels, of images of 32",
            ours="a share of the side, 0.375, so that it fits images of any size",
            switch="recipe key method.sigma",
            effect="None at 32 pixels.",
        ),
        Deviation(
            name="batched",
            publication="does not say",
            released="crops image by image in loader workers, and carries the confidence in the fraction of the label",
            ours="crops a batch at once on the device; the confidence stays in the hook",
            switch="none",
            effect="None: the same offsets give the same images, which the fixture confirms.",
        ),
        Deviation(
            name="calibration_bins",
            publication="expected calibration error (abstract); its bins could not be read",
            released="ten intervals of equal width",
            ours="fifteen, as the suite has it everywhere",
            switch="argument bins of common.robustness.metrics.calibration.ece",
            effect="Both are compared in the tests of the paper.",
        ),
    ),
)
