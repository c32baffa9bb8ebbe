"""TransMix: label mixing by the attention that falls on each part of a mixed image."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="transmix",
    title="TransMix: Attend to Mix for Vision Transformers",
    authors=("Jie-Neng Chen", "Shuyang Sun", "Ju He", "Philip Torr", "Alan Yuille", "Song Bai"),
    venue="CVPR 2022",
    year=2022,
    kind="label mixing",
    arxiv="2111.09833",
    summary=(
        "Weights the two labels of a CutMix image by the class token's attention on its two parts instead of their "
        "area; vision transformers become about a point better on ImageNet, and more robust, at next to no cost."
    ),
    repository="https://github.com/Beckschen/TransMix",
    commit="0e4d31e",
    licence="Apache-2.0",
    bibtex="""@inproceedings{chen2022transmix,
  title     = {TransMix: Attend to Mix for Vision Transformers},
  author    = {Chen, Jie-Neng and Sun, Shuyang and He, Ju and Torr, Philip and Yuille, Alan and Bai, Song},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022}
}""",
    models=(Model(name="ca_swin_tiny_patch4_window7_224"),),
    reused_models=(
        Model(name="deit_tiny_patch16_224"),
        Model(name="deit_small_patch16_224", released="deit_small_patch16_224_return_attn"),
        Model(name="deit_base_patch16_224", released="deit_base_patch16_224_return_attn"),
        Model(name="xcit_small_12_p16_224"),
        Model(name="xcit_medium_24_p16_224"),
        Model(name="xcit_large_24_p16_224"),
    ),
    claims=(
        Claim(
            name="label_mixing",
            statement="At equal budget TransMix gives better and more robust networks than CutMix.",
            needs=("embedded",),
            primary="vit_mini+transmix > vit_mini+cutmix: top1",
        ),
        Claim(
            name="identity",
            statement="Even attention gives CutMix's label, attention on one image alone gives that image's label.",
            primary="even",
        ),
        Claim(
            name="visible_objects",
            statement="The share of the label from attention is nearer than the area to how much of an object is seen.",
            needs=("embedded",),
            primary="attention > area: label_share_error",
        ),
        Claim(
            name="attention_alone",
            statement="The mean of area and attention gives better networks than attention alone.",
            needs=("embedded",),
            primary="vit_mini+transmix > vit_mini+attention: top1",
        ),
        Claim(
            name="cost",
            statement="A training step with TransMix costs next to nothing more than with CutMix.",
            primary="transmix",
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
            name="area_share",
            publication="attention alone in Figure 1; in the experiments (section 4.1) the mean with the area",
            released="the mean, whatever its option ratio says",
            ours="the mean; the weight is a setting",
            switch="recipe key method.area_share = 0.5 | 0.0",
            effect="attention_alone",
        ),
        Deviation(
            name="mix_switch_probability",
            publication="not found in what we could read",
            released="0.8 for DeiT-B; for DeiT-S the configuration misspells the key of its 0.8, which leaves 0.5",
            ours="0.8 for all",
            switch="recipe key mix_switch_probability = 0.8 | 0.5",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="box",
            publication="the box of CutMix",
            released="timm 0.5.4's box, whose sides are rounded down to even numbers of pixels",
            ours="the box of today's timm, as wide and high as drawn; the label follows the box in both",
            switch="none",
            effect="At most one row and column of pixels.",
        ),
        Deviation(
            name="no_class_token",
            publication="gives Swin a block of class attention in place of its last (section 4.5)",
            released="nothing; models without class token fail",
            ours=(
                "the same, as ca_swin_tiny_patch4_window7_224; other models without class token keep their "
                "architecture, and the attention of all patches is averaged, as their classifier averages patches"
            ),
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="attention_map",
            publication="the class token's attention in the last block, mean over heads",
            released="computes the whole map of the last block, of which it needs a row, without a fused kernel",
            ours="computes the row from the queries and keys of the same pass; the block keeps its fused kernel",
            switch="none",
            effect="The same numbers to float32 rounding.",
        ),
    ),
)
