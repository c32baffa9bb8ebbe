"""TokenMix: images mixed in several parts, labels by a teacher's activation on what is seen."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="tokenmix",
    title="TokenMix: Rethinking Image Mixing for Data Augmentation in Vision Transformers",
    authors=("Jihao Liu", "Boxiao Liu", "Hang Zhou", "Hongsheng Li", "Yu Liu"),
    venue="ECCV 2022",
    year=2022,
    kind="label mixing",
    arxiv="2207.08409",
    summary=(
        "Pastes several separate groups of tokens instead of CutMix's box, and takes the label from a pre-trained "
        "teacher's activation on what is seen; vision transformers become a point better and look at the foreground."
    ),
    repository="https://github.com/Sense-X/TokenMix",
    commit="0e17d5d",
    licence="MIT",
    bibtex="""@inproceedings{liu2022tokenmix,
  title     = {TokenMix: Rethinking Image Mixing for Data Augmentation in Vision Transformers},
  author    = {Liu, Jihao and Liu, Boxiao and Zhou, Hang and Li, Hongsheng and Liu, Yu},
  booktitle = {European Conference on Computer Vision},
  year      = {2022}
}""",
    builds_on=("transmix",),
    reused_models=(
        Model(name="deit_tiny_patch16_224"),
        Model(name="deit_small_patch16_224"),
        Model(name="deit_base_patch16_224"),
        Model(name="swin_tiny_patch4_window7_224"),
    ),
    claims=(
        Claim(
            name="token_mixing",
            statement="At equal budget TokenMix gives better networks than CutMix, and more robust ones to occlusion.",
            needs=("embedded",),
            primary="vit_mini+tokenmix > vit_mini+cutmix: top1",
        ),
        Claim(
            name="identity",
            statement="An even activation gives the label by area, and a region has several separate parts.",
            primary="even",
        ),
        Claim(
            name="teacher_labels",
            statement="Labels by the teacher's activation give better networks than labels by area.",
            needs=("embedded",),
            primary="vit_mini+tokenmix > vit_mini+tokenmix.area: top1",
        ),
        Claim(
            name="foreground_attention",
            statement="With TokenMix more of the attention falls on the object than with CutMix.",
            needs=("embedded",),
            primary="vit_mini+tokenmix > vit_mini+cutmix: attention_on_object",
        ),
        *FULL_SCALE,
        Claim(
            name="imagenet_occlusion",
            statement="Top-1 accuracy on ImageNet's validation set with patches dropped and shuffled.",
            needs=("imagenet", "checkpoint"),
            measured_by="common.robustness.full_scale_measures:imagenet_occlusion",
        ),
    ),
    deviations=(
        Deviation(
            name="ratio",
            publication="could not be read",
            released="draws a share from a beta distribution and throws it away: always 112 of 196 tokens",
            ours="112 of 196 tokens; the share that is drawn behind the switch",
            switch="recipe key method.ratio = 0.5 | 0.0",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="scores",
            publication="assigns the target score by the activation maps of the two images (abstract)",
            released="each image's score is the share of its own activation that is seen; both make 0 to 2 together",
            ours="as released; divided by their sum behind the switch",
            switch="recipe key method.normalised_scores = false | true",
            effect="identity",
        ),
        Deviation(
            name="teacher_maps",
            publication="activation maps of a pre-trained teacher, which need not be good (abstract)",
            released="reads stored maps of whole images (NFNet-F6, the best five classes) and cuts out the crop",
            ours=(
                "the teacher sees the crop that is trained on, at each step; what the release does with stored maps is "
                "method.stored_activation"
            ),
            switch='recipe key method.teacher = "NAME"',
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="grid",
            publication="mixes at the level of tokens",
            released="14 x 14 tokens of 224 pixels, whatever the model",
            ours="as released; a setting, 7 x 7 for the small hosts",
            switch="recipe key method.grid = 14",
            effect="Parts of 16 pixels are whole tokens of DeiT, and whole squares of tokens of Swin and PVT.",
        ),
    ),
)
