"""PRIME: a few random primitives of maximum entropy, mixed."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CIFAR_CLAIMS
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="prime",
    title="PRIME: A Few Primitives Can Boost Robustness to Common Corruptions",
    authors=(
        "Apostolos Modas",
        "Rahul Rade",
        "Guillermo Ortiz-Jiménez",
        "Seyed-Mohsen Moosavi-Dezfooli",
        "Pascal Frossard",
    ),
    venue="ECCV 2022",
    year=2022,
    kind="augmentation",
    arxiv="2112.13547",
    summary=(
        "Random smooth transformations of space, colours and spectrum, each of maximum entropy, mixed as in AugMix, "
        "raise robustness to corruption above methods with complex operations, and take little time."
    ),
    repository="https://github.com/amodas/PRIME-augmentations",
    commit="0290f6b",
    licence="Apache-2.0",
    bibtex="""@inproceedings{modas2022prime,
  title     = {{PRIME}: A Few Primitives Can Boost Robustness to Common Corruptions},
  author    = {Modas, Apostolos and Rade, Rahul and Ortiz-Jim{\\'e}nez, Guillermo and Moosavi-Dezfooli, Seyed-Mohsen
               and Frossard, Pascal},
  booktitle = {European Conference on Computer Vision},
  year      = {2022}
}""",
    builds_on=("augmix",),
    models=(
        Model(name="resnet50_prime", released="resnet50"),
        Model(name="resnet18_prime", released="resnet18 (imagenet100)"),
        Model(name="resnet18_prime_cifar", released="resnet18 (cifar10, cifar100)"),
    ),
    claims=(
        Claim(
            name="robustness",
            statement="At equal budget PRIME lowers the error under corruption, and with the consistency term below "
            "AugMix's.",
            needs=("embedded",),
            primary="resnet_mini+prime > resnet_mini: corruption_top1",
        ),
        Claim(
            name="mixing",
            statement="Mixing the ends of chains with each other and with the image is what makes PRIME robust.",
            needs=("embedded",),
            primary="resnet_mini+prime > resnet_mini+prime.no_mixing: corruption_top1",
        ),
        Claim(
            name="identity",
            statement="Each primitive without strength is the identity.",
            primary="displace",
        ),
        Claim(
            name="maximum_entropy",
            statement="Each primitive has the second moments for which Gaussian coefficients have the largest entropy.",
            primary="modes",
        ),
        Claim(
            name="cost",
            statement="Augmenting a batch by PRIME takes no longer than by AugMix.",
            primary="augmix_at_32",
        ),
        *FULL_SCALE,
        *CIFAR_CLAIMS,
    ),
    deviations=(
        Deviation(
            name="centre_of_filters",
            publication="filters are noise around the identity",
            released="the identity is at index ceil(k / 2), counted from 0: a filter of 3 pixels moves images by one "
            "pixel up and to the left",
            ours="the identity is in the middle; the released place behind the switch",
            switch="recipe key method.centred = true | false",
            effect="identity",
        ),
        Deviation(
            name="one_primitive",
            publication="does not say",
            released="runs each primitive on all chains at each step, and keeps one result of three",
            ours="runs a primitive on the chains that take it",
            switch="none",
            effect="None: the same draws give the same images, which the fixture of the mixture confirms.",
        ),
        Deviation(
            name="fixed_depth",
            publication="does not say",
            released="with a fixed depth, still draws 1 to 3 and takes the smaller of the two",
            ours="a fixed depth is that of every chain",
            switch="none",
            effect="None: the released settings draw the depth.",
        ),
        Deviation(
            name="one_cycle",
            publication="could not be read",
            released="OneCycleLR: the rate rises and falls along cosines, and the momentum moves against it, between "
            "0.85 and 0.95",
            ours="the rate rises along a line and falls along a cosine, between the same values; momentum 0.9",
            switch="none",
            effect="Shows only in full-scale training.",
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
