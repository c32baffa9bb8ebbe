"""SMMix: images mixed by the attention of the network under training, which learns more from the mixture."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="smmix",
    title="SMMix: Self-Motivated Image Mixing for Vision Transformers",
    authors=("Mengzhao Chen", "Mingbao Lin", "Zhihang Lin", "Yuxin Zhang", "Fei Chao", "Rongrong Ji"),
    venue="ICCV 2023",
    year=2023,
    kind="label mixing",
    arxiv="2212.12977",
    summary=(
        "Pastes the region that the network under training attends to most on the one that it attends to least, and "
        "adds labels for both parts and consistency with the unmixed images; transformers become a point better."
    ),
    repository="https://github.com/ChenMnZ/SMMix",
    commit="14b1edc",
    licence="none stated",
    bibtex="""@inproceedings{chen2023smmix,
  title     = {SMMix: Self-Motivated Image Mixing for Vision Transformers},
  author    = {Chen, Mengzhao and Lin, Mingbao and Lin, Zhihang and Zhang, Yuxin and Chao, Fei and Ji, Rongrong},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2023}
}""",
    builds_on=("transmix",),
    models=(
        Model(name="smmix_deit_tiny_patch16_224", released="vit_deit_tiny_patch16_224"),
        Model(name="smmix_deit_small_patch16_224", released="vit_deit_small_patch16_224"),
        Model(name="smmix_deit_base_patch16_224", released="vit_deit_base_patch16_224"),
    ),
    claims=(
        Claim(
            name="self_motivation",
            statement="At equal budget of images SMMix gives better networks than CutMix and TransMix.",
            needs=("embedded",),
            primary="vit_mini+smmix > vit_mini+cutmix: top1",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant; none are printed.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="identity",
            statement="The regions are those of most and of least attention, and the losses have their known values.",
            primary="regions",
        ),
        Claim(
            name="parts",
            statement="SMMix is better than without max-min regions, fine-grained labels or consistency.",
            needs=("embedded",),
            primary="vit_mini+smmix > vit_mini+smmix.without_max_min: top1",
        ),
        Claim(
            name="cost",
            statement="A training step with SMMix is cheap beside one with CutMix.",
            primary="smmix",
        ),
        *FULL_SCALE,
    ),
    deviations=(
        Deviation(
            name="mix_probability",
            publication="could not be read",
            released="has an option for how often to mix, which is ignored: every batch is mixed",
            ours="every batch at full scale; the option has its effect",
            switch="recipe key mix_probability = 1.0",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="attention",
            publication="regions by attention (abstract)",
            released="what the patches of the last block take from each patch, mean over patches and heads",
            ours="the same, from the queries and keys of the pass; the block keeps its fused kernel",
            switch="none",
            effect="The same numbers to float32 rounding.",
        ),
        Deviation(
            name="averaged_weights",
            publication="could not be read",
            released="makes an average of the weights that is never updated",
            ours="none",
            switch="recipe key ema_decay = 0.0",
            effect="None: the average is neither trained with nor evaluated.",
        ),
        Deviation(
            name="pvt",
            publication="prints PVT and CaiT as well (abstract)",
            released="has PVT of the first version, with the same second head",
            ours="DeiT alone: timm has no PVT of the first version",
            switch="none",
            effect="Rows of PVT are not measured.",
        ),
    ),
)
