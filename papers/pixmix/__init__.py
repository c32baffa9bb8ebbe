"""PixMix: images mixed with pictures of complex structure."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CIFAR_CLAIMS
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="pixmix",
    title="PixMix: Dreamlike Pictures Comprehensively Improve Safety Measures",
    authors=(
        "Dan Hendrycks",
        "Andy Zou",
        "Mantas Mazeika",
        "Leonard Tang",
        "Bo Li",
        "Dawn Song",
        "Jacob Steinhardt",
    ),
    venue="CVPR 2022",
    year=2022,
    kind="augmentation",
    arxiv="2112.05135",
    summary=(
        "Mixing images repeatedly with fractals and feature visualisations improves robustness to corruption and to "
        "adversaries, consistency, calibration and anomaly detection together."
    ),
    repository="https://github.com/andyzoujm/pixmix",
    commit="f867e87",
    licence="MIT",
    bibtex="""@inproceedings{hendrycks2022pixmix,
  title     = {{PixMix}: Dreamlike Pictures Comprehensively Improve Safety Measures},
  author    = {Hendrycks, Dan and Zou, Andy and Mazeika, Mantas and Tang, Leonard and Li, Bo and Song, Dawn and
               Steinhardt, Jacob},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022}
}""",
    builds_on=("augmix",),
    models=(
        Model(name="resnet50_pixmix", released="resnet50"),
        Model(name="wideresnet40_4_cifar", released="wrn"),
    ),
    claims=(
        Claim(
            name="corruptions",
            statement="At equal budget PixMix lowers the error under corruption.",
            needs=("embedded",),
            primary="resnet_mini+pixmix > resnet_mini: corruption_top1",
        ),
        Claim(
            name="consistency",
            statement="With PixMix predictions change less from one frame to the next.",
            needs=("embedded",),
            primary="resnet_mini+pixmix > resnet_mini: flip_rate",
        ),
        Claim(
            name="adversaries",
            statement="With PixMix networks stand adversaries better.",
            needs=("embedded",),
            primary="resnet_mini+pixmix > resnet_mini: pgd_eps2_top1",
        ),
        Claim(
            name="calibration",
            statement="With PixMix the calibration error under corruption is lower.",
            needs=("embedded",),
            primary="resnet_mini+pixmix > resnet_mini: corruption_rms_calibration_error",
        ),
        Claim(
            name="anomaly_detection",
            statement="With PixMix low confidence tells images of unknown kinds better.",
            needs=("embedded",),
            primary="resnet_mini+pixmix > resnet_mini: auroc",
        ),
        Claim(
            name="identity",
            statement="A second picture without weight, and grey of any weight, change nothing.",
            primary="nothing",
        ),
        *FULL_SCALE,
        *CIFAR_CLAIMS,
    ),
    deviations=(
        Deviation(
            name="pictures",
            publication="fractals and feature visualisations that the authors collected",
            released="links them",
            ours="a folder of the user's; on embedded data, fractals that are made here",
            switch='recipe key method.pictures = "DIR" | "fractals"',
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="batched",
            publication="does not say",
            released="mixes image by image in loader workers, with Pillow's operations",
            ours="a batch at once on the training device, the same results for the same draws; pictures stay in memory",
            switch="none",
            effect="None: the same draws give the same images, which the fixture confirms.",
        ),
        Deviation(
            name="draws",
            publication="does not say",
            released="draws the kind of a round's weights when it comes to it",
            ours="draws all rounds of a batch beforehand, from the same distributions",
            switch="none",
            effect="None: those that are not needed have no effect.",
        ),
        Deviation(
            name="calibration_bins",
            publication="root mean square over bins",
            released="leaves out the bin of the most confident examples, and divides by all",
            ours="every bin counts",
            switch="argument last_bin of common.robustness.metrics.calibration.adaptive_calibration_error",
            effect="Both are compared in the tests of the paper.",
        ),
        Deviation(
            name="weight_decay",
            publication="does not say what is decayed",
            released="decays every parameter, biases and norms included",
            ours="as released; the suite's other recipes leave biases and norms out",
            switch="recipe key method.decay_all",
            effect="Shows only in full-scale training.",
        ),
    ),
)
