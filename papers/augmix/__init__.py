"""AugMix: chains of augmentations, mixed, and predictions that agree."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CIFAR_CLAIMS, CORRUPTION_CELLS
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="augmix",
    title="AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty",
    authors=(
        "Dan Hendrycks",
        "Norman Mu",
        "Ekin D. Cubuk",
        "Barret Zoph",
        "Justin Gilmer",
        "Balaji Lakshminarayanan",
    ),
    venue="ICLR 2020",
    year=2020,
    kind="augmentation",
    arxiv="1912.02781",
    summary=(
        "Mixing several chains of random augmentations with the image, and a loss that makes predictions for such "
        "images agree, raises robustness to corruption and calibration at no cost in clean accuracy."
    ),
    repository="https://github.com/google-research/augmix",
    commit="9b9824c",
    licence="Apache-2.0",
    bibtex="""@inproceedings{hendrycks2020augmix,
  title     = {{AugMix}: A Simple Data Processing Method to Improve Robustness and Uncertainty},
  author    = {Hendrycks, Dan and Mu, Norman and Cubuk, Ekin D. and Zoph, Barret and Gilmer, Justin and
               Lakshminarayanan, Balaji},
  booktitle = {International Conference on Learning Representations},
  year      = {2020}
}""",
    models=(
        Model(name="resnet50_augmix", released="ResNet-50"),
        Model(name="wideresnet40_2_cifar", released="wrn"),
        Model(name="resnext29_cifar", released="resnext"),
        Model(name="densenet40_cifar", released="densenet"),
        Model(name="allconv_cifar", released="allconv"),
    ),
    claims=(
        Claim(
            name="robustness",
            statement="At equal budget AugMix lowers the error under corruption.",
            needs=("embedded",),
            primary="resnet_mini+augmix > resnet_mini: corruption_top1",
        ),
        Claim(
            name="operations",
            statement="On the device, a batch gets what Pillow gives image by image, to the last bit.",
            primary="operations",
        ),
        Claim(
            name="divergence",
            statement=(
                "The consistency term is 0 where predictions agree and at most log 3, which it reaches where three "
                "predictions share nothing."
            ),
            primary="divergence",
        ),
        Claim(
            name="normaliser",
            statement="The released code divides corruption errors by the errors of AlexNet that this suite has.",
            primary="errors_of_alexnet",
        ),
        Claim(
            name="calibration",
            statement="At equal budget AugMix lowers the calibration error under corruption.",
            needs=("embedded",),
            primary="resnet_mini+augmix > resnet_mini: corruption_rms_calibration_error",
        ),
        Claim(
            name="cost",
            statement="Augmenting a batch of CIFAR's size at once takes less time than image by image with Pillow.",
            primary="batched_at_32",
        ),
        *FULL_SCALE,
        CORRUPTION_CELLS,
        *CIFAR_CLAIMS,
    ),
    deviations=(
        Deviation(
            name="batched",
            publication="augments image by image",
            released="does so with Pillow in loader workers, with draws from NumPy's global generator, of which every "
            "worker of the torch that it asks for starts with the same copy",
            ours="a batch at once on the training device, the same results for the same draws (a CPU takes Pillow for "
            "images above 40 x 40 pixels, which is faster there); draws follow from seed and step",
            switch="recipe key method.per_image",
            effect="operations",
        ),
        Deviation(
            name="lookup_of_bytes",
            publication="does not say",
            released=(
                "augment_and_mix.py goes from bytes to [0, 1] and back around each operation, by truncation; cifar.py "
                "and imagenet.py keep bytes"
            ),
            ours="bytes throughout",
            switch="none",
            effect="None: truncation gives every byte back, which the fixture of augment_and_mix.py confirms.",
        ),
        Deviation(
            name="image_size",
            publication="does not say how far translations and shears go on images of other sizes",
            released="a constant, 32 or 224, gives the largest translation and the side of what comes out",
            ours="the width and height of the image",
            switch="none",
            effect="None on square images of 32 or 224 pixels; other images would be cropped or padded by the release.",
        ),
        Deviation(
            name="weight_decay",
            publication="does not say what is decayed",
            released="decays every parameter, biases and norms included",
            ours="as released; the suite's other recipes leave biases and norms out",
            switch="recipe key method.decay_all",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="epochs",
            publication="nothing that we could read",
            released="imagenet.py trains 90 epochs by default; the released weights were trained for 180",
            ours="180, of which the printed numbers are",
            switch="recipe key epochs",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="resnext_groups",
            publication="named ResNeXt-29 (32x4d) by those who evaluate the released weights",
            released="4 groups of 32 channels, which is 4x32d",
            ours="as released, so that released weights load",
            switch="none",
            effect="Fixed by the released weights.",
        ),
        Deviation(
            name="allconv_pooling",
            publication="nothing that we could read",
            released="pads 1 x 1 convolutions, so that 10 x 10 places are left, and averages the first 8 x 8 of them",
            ours="as released; for other image sizes, all but the last two rows and columns",
            switch="none",
            effect="Fixed by the released code.",
        ),
        Deviation(
            name="clean_copy",
            publication="cross-entropy on the clean image, divergence over three predictions",
            released="the same with the divergence; with --no-jsd cross-entropy on one augmented image alone",
            ours="both, as released",
            switch="recipe key method.consistency",
            effect="robustness",
        ),
    ),
)
