"""Dr. ViT: words of a codebook beside pixels, so that a vision transformer looks at the whole."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

#: Ours, and what the release calls them; empty where it has no configuration of such a network.
_MODELS = {
    "drvit_base_patch16_224": "fusion ViT-B/16",
    "drvit_small_patch16_224": "fusion ViT-S/16",
    "drvit_large_patch16_224": "fusion ViT-L/16",
    "drvit_base_patch16_224_21k": "fusion ViT-B/16, ImageNet-21k",
    "drvit_base_r50_s16_224": "",
    "drmixer_base_patch16_224": "fusion Mixer-B/16",
    "discrete_vit_tiny_patch16_224": "ViT-Ti/16",
    "discrete_vit_small_patch16_224": "ViT-S/16",
    "discrete_vit_base_patch16_224": "ViT-B/16",
    "discrete_vit_large_patch16_224": "ViT-L/16",
    "discrete_vit_base_patch16_224_21k": "ViT-B/16, ImageNet-21k",
}

PAPER = Paper(
    slug="drvit",
    title="Discrete Representations Strengthen Vision Transformer Robustness",
    authors=("Chengzhi Mao", "Lu Jiang", "Mostafa Dehghani", "Carl Vondrick", "Rahul Sukthankar", "Irfan Essa"),
    venue="ICLR 2022",
    year=2022,
    kind="architecture",
    arxiv="2111.10493",
    summary=(
        "Tokens that are words of a codebook do not change under small perturbations and say little each; beside "
        "pixels they make a vision transformer use the shape of the whole, and more robust."
    ),
    repository="https://github.com/google-research/scenic",
    commit="b01b0d4",
    licence="Apache-2.0",
    bibtex="""@inproceedings{mao2022discrete,
  title     = {Discrete Representations Strengthen Vision Transformer Robustness},
  author    = {Mao, Chengzhi and Jiang, Lu and Dehghani, Mostafa and Vondrick, Carl and Sukthankar, Rahul and Essa,
               Irfan},
  booktitle = {International Conference on Learning Representations},
  year      = {2022}
}""",
    models=tuple(Model(name=name, released=released) for name, released in _MODELS.items()),
    reused_models=(
        Model(name="vit_base_patch16_224", released="ViT-B/16 on pixels"),
        Model(name="vit_base_r50_s16_224", released="R50x1+B/16 on pixels"),
    ),
    claims=(
        Claim(
            name="robustness",
            statement="Words of a codebook beside pixels raise accuracy under corruption.",
            needs=("embedded",),
            primary="vit_mini+codes > vit_mini: corruption_top1",
        ),
        Claim(
            name="shape",
            statement="With them, a vision transformer decides more by shape.",
            needs=("embedded",),
            primary="vit_mini+codes > vit_mini: shape_bias",
        ),
        Claim(
            name="positions",
            statement="With them, a vision transformer relies more on where its tokens are.",
            needs=("embedded",),
            primary="vit_mini+codes > vit_mini: position_reliance",
        ),
        Claim(
            name="changed_tokens",
            statement="Code words stay under small perturbations: only those change whose features leave their cell.",
            needs=("embedded",),
            primary="kept",
        ),
        Claim(
            name="invariance",
            statement="A code word stays while its feature moves by less than its margin, and changes beyond.",
            primary="margin",
        ),
        Claim(
            name="fusion",
            statement="A fused token is pixels, code word and zeros, side by side; code words give images no gradient.",
            primary="layout",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        *FULL_SCALE,
    ),
    deviations=(
        Deviation(
            name="code_offsets",
            publication="could not be read; its configuration asks for offsets of code words at 1/100 of the rate",
            released="an option that is on unless it is named comes first, so that they are never trained",
            ours="trained at 1/100 of the rate",
            switch="recipe key method.codes = tuned | frozen",
            effect="Shows only in full-scale training; outputs are the same, since offsets start at zero.",
        ),
        Deviation(
            name="shortcut",
            publication="could not be read",
            released="where a block of the encoder changes the width, its shortcut convolves the block's output",
            ours="as released",
            switch="none",
            effect="Fixed by the released weights.",
        ),
        Deviation(
            name="classifier",
            publication="could not be read",
            released="asks for mean pooling under a misspelt key, so that the class token is used",
            ours="the class token",
            switch="global_pool='avg'",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="stochastic_depth",
            publication="could not be read",
            released="multiplies by 0 or 1 and never divides by the share that is kept",
            ours="timm's, which divides",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="mixer",
            publication="four architectures, says the abstract",
            released="the module of the mixer imports a package that is not there",
            ours="timm's mixer on the same tokens; names are the release's",
            switch="none",
            effect="No output of the release could be recorded.",
        ),
        Deviation(
            name="hybrid",
            publication="four architectures, says the abstract",
            released="has a hybrid on pixels alone; how code words go into it is not there",
            ours="the features of its residual network take the place of pixels",
            switch="none",
            effect="No output of the release could be recorded.",
        ),
        Deviation(
            name="schedule",
            publication="could not be read",
            released="a linear decay for mixer, hybrid and plain ViT; a mixer's epoch has the steps of JFT",
            ours="the cosine of the others, over epochs of the data",
            switch="none",
            effect="Shows only in full-scale training.",
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
            name="half_precision",
            publication="could not be read",
            released="computes in one precision throughout",
            ours="the encoder in float32 under autocast, too",
            switch="none",
            effect="A code word is a decision, which rounding would change where a margin is small.",
        ),
    ),
    builds_on=("vit", "augreg"),
)
