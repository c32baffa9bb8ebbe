"""AugReg: how much augmentation and regularisation a vision transformer needs, for how much data."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE
from common.robustness.full_scale import REAL_CLAIMS

#: timm's networks, and the release's names: one for images of every size.
_MODELS = {
    "vit_tiny_patch16": "Ti_16",
    "vit_small_patch32": "S_32",
    "vit_small_patch16": "S_16",
    "vit_base_patch32": "B_32",
    "vit_base_patch16": "B_16",
    "vit_large_patch16": "L_16",
    "vit_tiny_r_s16_p8": "R_Ti_16",
    "vit_small_r26_s32": "R26_S_32",
    "vit_large_r50_s32": "R50_L_32",
}

PAPER = Paper(
    slug="augreg",
    title="How to train your ViT? Data, Augmentation, and Regularization in Vision Transformers",
    authors=(
        "Andreas Steiner",
        "Alexander Kolesnikov",
        "Xiaohua Zhai",
        "Ross Wightman",
        "Jakob Uszkoreit",
        "Lucas Beyer",
    ),
    venue="arXiv",
    year=2021,
    kind="analysis",
    arxiv="2106.10270",
    summary=(
        "Augmentation and regularisation, with more steps, make up for an order of magnitude of training images; when "
        "to use which is read from a large grid of trained networks."
    ),
    repository="https://github.com/google-research/vision_transformer",
    commit="c6de1e5",
    licence="Apache-2.0",
    bibtex="""@article{steiner2021train,
  title   = {How to train your {ViT}? Data, Augmentation, and Regularization in Vision Transformers},
  author  = {Steiner, Andreas and Kolesnikov, Alexander and Zhai, Xiaohua and Wightman, Ross and Uszkoreit, Jakob and
             Beyer, Lucas},
  journal = {arXiv preprint arXiv:2106.10270},
  year    = {2021}
}""",
    reused_models=(
        *(Model(name=f"{name}_{size}", released=released) for name, released in _MODELS.items() for size in (224, 384)),
        Model(name="vit_base_patch8_224", released="B_8"),
    ),
    claims=(
        Claim(
            name="data",
            statement="With augmentation and regularisation an eighth of the images is as good as all of them without.",
            needs=("embedded",),
            primary="vit_mini.images_6400.augreg = vit_mini: top1",
        ),
        Claim(
            name="few_images",
            statement="Where a network sees few images often, augmentation and regularisation make it better.",
            needs=("embedded",),
            primary="vit_mini.images_6400.augreg > vit_mini.images_6400: top1",
        ),
        Claim(
            name="many_images",
            statement="Where it sees each image once, they make it worse.",
            needs=("embedded",),
            primary="vit_mini > vit_mini.augreg: top1",
        ),
        Claim(
            name="size",
            statement="Parameters of every variant, and the size of its file, are the printed ones.",
            settles=(("-", "params"), ("-", "checkpoint_size")),
            measured_by="common.profiling.size:size",
        ),
        *FULL_SCALE,
        *REAL_CLAIMS,
    ),
    deviations=(
        Deviation(
            name="pooling",
            publication="the abstract does not say",
            released="files have a class token; a later configuration of pre-training averages the patches",
            ours="a class token",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="randaugment",
            publication="the abstract does not say",
            released="two operations of TensorFlow's RandAugment, of one magnitude for all images",
            ours="two operations of timm's, whose list and ranges differ, of the same magnitude",
            switch="recipe key auto_augment",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="weight_decay",
            publication="the abstract does not say; names of files have 0.03 and 0.1",
            released="1e-4 a step at the full rate of 1e-3, which is 0.1 times the rate; kernels alone",
            ours="AdamW's, 0.1 times the rate; kernels and positions",
            switch="recipe key weight_decay",
            effect="Shows only in full-scale training.",
        ),
    ),
    builds_on=("vit",),
)
