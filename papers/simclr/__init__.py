"""SimCLR: contrastive learning of representations from two views of each image."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CIFAR_CLAIMS
from common.robustness.full_scale import CLAIMS as FULL_SCALE

#: Released networks of SimCLRv2: depth, multiple of the width, selective kernels.
_V2 = [
    *((depth, width, sk) for depth in (50, 101, 152) for width in (1, 2) for sk in (False, True)),
    (152, 3, True),
]


def _v2(depth: int, width: int, sk: bool) -> tuple[Model, Model]:
    name = f"resnet{depth}{'' if width == 1 else f'x{width}'}{'_sk' if sk else ''}_simclrv2"
    released = f"r{depth}_{width}x_sk{int(sk)}"
    return Model(name=name, released=released), Model(name=f"{name}_finetuned", released=f"{released} fine-tuned")


PAPER = Paper(
    slug="simclr",
    title="A Simple Framework for Contrastive Learning of Visual Representations",
    authors=("Ting Chen", "Simon Kornblith", "Mohammad Norouzi", "Geoffrey Hinton"),
    venue="ICML 2020",
    year=2020,
    kind="self-supervision",
    arxiv="2002.05709",
    summary=(
        "Strong composed augmentation, a non-linear projection head and large batches make plain contrastive learning "
        "match a supervised ResNet-50 under linear evaluation."
    ),
    repository="https://github.com/google-research/simclr",
    commit="383d414",
    licence="Apache-2.0",
    bibtex="""@inproceedings{chen2020simple,
  title     = {A Simple Framework for Contrastive Learning of Visual Representations},
  author    = {Chen, Ting and Kornblith, Simon and Norouzi, Mohammad and Hinton, Geoffrey},
  booktitle = {International Conference on Machine Learning},
  year      = {2020}
}""",
    models=(
        Model(name="resnet50_simclr", released="ResNet50 (1x)"),
        Model(name="resnet50x2_simclr", released="ResNet50 (2x)"),
        Model(name="resnet50x4_simclr", released="ResNet50 (4x)"),
        Model(name="resnet18_cifar_simclr", released="ResNet-18 for CIFAR-10"),
        *(model for size in _V2 for model in _v2(*size)),
    ),
    claims=(
        Claim(
            name="pretraining",
            statement=(
                "Under a linear probe, features learnt without labels are better than random ones; those learnt with "
                "all labels stand beside them."
            ),
            needs=("embedded",),
            primary="resnet_mini.simclr > resnet_mini.random: linear_probe_top1/10pct",
        ),
        Claim(
            name="loss",
            statement="NT-Xent is the mean over views of Eq. 1, and depends on directions and pairs alone.",
            primary="definition",
        ),
        Claim(
            name="size",
            statement="Networks are of the printed sizes.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="augmentation_composition",
            statement="Crops or distortion of colours alone give no features as good as their composition.",
            needs=("embedded",),
            primary="resnet_mini.simclr > resnet_mini.simclr_crop: linear_probe_top1/10pct",
        ),
        *FULL_SCALE,
        *(claim for claim in CIFAR_CLAIMS if claim.name == "cifar_10"),
    ),
    deviations=(
        Deviation(
            name="loss_scale",
            publication="the mean over all 2N views",
            released="the sum of the means of both directions, twice as much",
            ours="as published",
            switch="recipe key method.released_loss",
            effect="LARS undoes a factor of the gradient but for its part in weight decay; norms and biases feel it.",
        ),
        Deviation(
            name="brightness",
            publication="nothing that we could read; the release names its additive form simclrv1",
            released="multiplied by default (impl='simclrv2'); added with impl='simclrv1'",
            ours="added, the form of SimCLRv1",
            switch="recipe key method.additive_brightness",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="blur",
            publication="nothing that we could read",
            released="one width for all first views of a batch and one for all second views",
            ours="a width for each image; the release's kernel: a tenth of the image, black beyond the border",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="projection_layers",
            publication="a small head with one hidden layer",
            released="three by default, so the commands of its README do not train the published head",
            ours="two in networks named simclr, three in those named simclrv2 and in that for CIFAR-10",
            switch="the name of the model",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="lars",
            publication="LARS of You et al.",
            released=(
                "the rate is part of the momentum; the norm of gradient and decay together is divided by; biases, "
                "norms and the classifier are left out of adaptation and decay"
            ),
            ours="timm's LARS: the rate outside the momentum, the sum of both norms; the same parameters left out",
            switch="recipe key optimizer",
            effect="Equal at a constant rate without decay; else it shows only in full-scale training.",
        ),
        Deviation(
            name="schedule",
            publication="nothing that we could read",
            released="the cosine begins at the end of the warm-up",
            ours="timm's: the cosine runs from the first step, so that the rate after ten of 100 epochs is 2.4 % lower",
            switch="recipe key schedule",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="online_classifier",
            publication="linear evaluation after pre-training",
            released="also a classifier trained meanwhile on features through which no gradient flows (tf2/run.py)",
            ours="both",
            switch="none",
            effect="None on the encoder, which gets no gradient from it; tests/papers/simclr checks that.",
        ),
        Deviation(
            name="printed_size",
            publication="does not say what is counted",
            released="the printed sizes of SimCLRv2 are those of the base network with batch norm's moving statistics",
            ours="so counted under the tag base_network, beside the parameters of the whole network",
            switch="none",
            effect="size",
        ),
        Deviation(
            name="resizing",
            publication="does not say how images are resized",
            released="bicubic by TensorFlow 1, which neither centres pixels nor smooths before it shrinks",
            ours="Pillow's bicubic interpolation, which does both",
            switch="none",
            effect="The claim imagenet measures it once released weights and images are there.",
        ),
    ),
)
