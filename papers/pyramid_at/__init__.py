"""PyramidAT: adversarial training with perturbations of several scales, and matched dropout."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="pyramid-at",
    title="Pyramid Adversarial Training Improves ViT Performance",
    authors=(
        "Charles Herrmann",
        "Kyle Sargent",
        "Lu Jiang",
        "Ramin Zabih",
        "Huiwen Chang",
        "Ce Liu",
        "Dilip Krishnan",
        "Deqing Sun",
    ),
    venue="CVPR 2022",
    year=2022,
    kind="adversarial training",
    arxiv="2111.15121",
    summary=(
        "Adversarial training with a pyramid of perturbations, and with the same dropout and stochastic depth for "
        "clean and adversarial images, raises a vision transformer's accuracy on clean and on shifted images alike."
    ),
    repository="https://github.com/google-research/scenic",
    commit="4a38d47",
    licence="Apache-2.0",
    bibtex="""@inproceedings{herrmann2022pyramid,
  title     = {Pyramid Adversarial Training Improves {ViT} Performance},
  author    = {Herrmann, Charles and Sargent, Kyle and Jiang, Lu and Zabih, Ramin and Chang, Huiwen and Liu, Ce and
               Krishnan, Dilip and Sun, Deqing},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022}
}""",
    reused_models=(Model(name="vit_base_patch16_224", released="ViT-B/16"),),
    claims=(
        Claim(
            name="adversarial_training",
            statement="At equal compute PyramidAT raises accuracy on clean images and under corruption.",
            needs=("embedded",),
            primary="vit_mini+pyramid_at > vit_mini: top1",
        ),
        Claim(
            name="identity",
            statement="A pyramid of one level of pixels is PGD, and each level is cut to the range of images.",
            primary="pgd",
        ),
        Claim(
            name="masks",
            statement="Matched, clean and adversarial images of a step are passed with the same dropout, bit for bit.",
            primary="matched",
        ),
        Claim(
            name="matched_regularisation",
            statement="Dropout and stochastic depth serve better on all images than on clean ones alone.",
            needs=("embedded",),
            primary="vit_mini+pyramid_at.matched > vit_mini+pyramid_at.unmatched: top1",
        ),
        *FULL_SCALE,
    ),
    deviations=(
        Deviation(
            name="masks",
            publication="the same dropout and stochastic depth configuration for both kinds of images (abstract)",
            released=(
                "equal rates; stochastic depth and the dropout of the MLPs have the same masks in all passes of a "
                "step, that of embedding and attention has others for adversarial images"
            ),
            ours="the same masks in all passes",
            switch='recipe key method.masks = "matched" | "released" | "unmatched"',
            effect="masks",
        ),
        Deviation(
            name="levels",
            publication="could not be read",
            released="works for one or three levels, whose multipliers it spreads over the colours",
            ours="any number of levels",
            switch="recipe keys method.cells and method.multipliers",
            effect="None for one and three levels, which the fixtures confirm.",
        ),
        Deviation(
            name="last_evaluation",
            publication="could not be read",
            released="evaluates loss and gradient once more after the last step, and the true label's loss in each",
            ours="neither, since nothing depends on them",
            switch="none",
            effect="None but the time that it takes.",
        ),
        Deviation(
            name="stochastic_depth",
            publication="could not be read",
            released="multiplies by 0 or 1 and never divides by the share that is kept",
            ours="as released at full scale; small networks as their host",
            switch="recipe key method.rescaled = false | true",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="network",
            publication="ViT-B/16",
            released="a ViT whose GELU is the tanh approximation",
            ours="timm's, with the exact one",
            switch="none: no weights were released",
            effect="Below 1e-3 in an activation.",
        ),
        Deviation(
            name="randaug",
            publication="could not be read",
            released="two of TensorFlow's operations at magnitude 15",
            ours="two of timm's at magnitude 15",
            switch="recipe key auto_augment",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="inverted_condition",
            publication="could not be read",
            released="computes metrics of the attack only where there is none, so that the plain baseline stops",
            ours="the plain baseline trains with method.cells empty",
            switch="none",
            effect="None on training with an attack.",
        ),
    ),
)
