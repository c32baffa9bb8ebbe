"""DeiT: a recipe by which vision transformers learn from ImageNet alone, and a token that learns from a ConvNet."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE
from common.robustness.full_scale import REAL_CLAIMS

#: DeiT's variants, which timm calls as the release does.
_DEIT = (
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "deit_base_patch16_224",
    "deit_base_patch16_384",
    "deit_tiny_distilled_patch16_224",
    "deit_small_distilled_patch16_224",
    "deit_base_distilled_patch16_224",
    "deit_base_distilled_patch16_384",
)
#: Those of DeiT III, a later publication (arXiv 2204.07118) whose models are in the same release; after the point, what
#: they were trained on before ImageNet-1k is a weight tag.
_DEIT3 = (
    "small_patch16_224",
    "small_patch16_384",
    "medium_patch16_224",
    "base_patch16_224",
    "base_patch16_384",
    "large_patch16_224",
    "large_patch16_384",
    "huge_patch14_224",
)

PAPER = Paper(
    slug="deit",
    title="Training data-efficient image transformers & distillation through attention",
    authors=(
        "Hugo Touvron",
        "Matthieu Cord",
        "Matthijs Douze",
        "Francisco Massa",
        "Alexandre Sablayrolles",
        "Hervé Jégou",
    ),
    venue="ICML 2021",
    year=2021,
    kind="architecture",
    arxiv="2012.12877",
    summary=(
        "Strong augmentation and regularisation let a plain vision transformer learn from ImageNet alone, and a "
        "distillation token lets it learn more from a ConvNet."
    ),
    repository="https://github.com/facebookresearch/deit",
    commit="7e160fe",
    licence="Apache-2.0",
    bibtex="""@inproceedings{touvron2021deit,
  title     = {Training data-efficient image transformers \\& distillation through attention},
  author    = {Touvron, Hugo and Cord, Matthieu and Douze, Matthijs and Massa, Francisco and Sablayrolles, Alexandre
               and J{\\'e}gou, Herv{\\'e}},
  booktitle = {International Conference on Machine Learning},
  year      = {2021}
}""",
    reused_models=(
        *(Model(name=name, released=name) for name in _DEIT),
        *(Model(name=f"deit3_{name}", released=f"deit_{name.rpartition('_')[0]}_LS") for name in _DEIT3),
    ),
    converts=("timm.models.vision_transformer:deit*", "timm.models.deit"),
    claims=(
        Claim(
            name="distillation",
            statement="A ViT with a token that learns a ConvNet's decisions is better than one without a teacher.",
            needs=("embedded",),
            primary="vit_mini.token > vit_mini: top1",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="inductive_bias",
            statement="Through the token the ViT comes to decide as the ConvNet does.",
            needs=("embedded",),
            primary="vit_mini.token > vit_mini: teacher_agreement",
        ),
        Claim(
            name="joint_classifier",
            statement="Both heads together are more accurate than the class token's alone.",
            needs=("embedded",),
            primary="vit_mini.token > vit_mini.token.class: top1",
        ),
        Claim(
            name="tokens",
            statement="Class and distillation token start apart and grow alike over the blocks, but stay two.",
            needs=("embedded",),
            primary="vit_mini.token.depth_3 > vit_mini.token.depth_0: token_cosine",
        ),
        *FULL_SCALE,
        *REAL_CLAIMS,
    ),
    deviations=(
        Deviation(
            name="fusion",
            publication="adds the softmax outputs of the two heads at test",
            released="takes the mean of their logits",
            ours="as released (timm)",
            switch="none",
            effect="joint_classifier",
        ),
        Deviation(
            name="soft_distillation",
            publication="the divergence of an image's probabilities, mean over the batch (equation 2)",
            released="divides by the number of classes too, 1,000 times less, and takes temperature 1, weight 0.5",
            ours="as published, with its temperature 3 and weight 0.1 (section 6)",
            switch="recipe keys distillation_alpha and distillation_temperature",
            effect="With weight a, the released term is that of weight a / (1000 (1 - a) + a) here.",
        ),
        Deviation(
            name="distillation_without_token",
            publication="compares with soft and hard distillation of the class token",
            released="refuses to distil a network without distillation token",
            ours="as published",
            switch="the model: deit_*_distilled_* has the token",
            effect="distillation",
        ),
        Deviation(
            name="fine_tuning_with_teacher",
            publication="keeps the teacher in fine-tuning at 384 pixels, at that resolution",
            released="refuses it, and prints a command without",
            ours="without by default",
            switch="--set distillation=hard distillation_teacher=NAME",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="schedule",
            publication="does not say when the rate changes",
            released="sets the rate one epoch late and never runs the 10 epochs of cool-down that it asks for",
            ours="as released",
            switch="recipe keys schedule_unit and cooldown_epochs",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="evaluation_crop",
            publication="does not say",
            released="resizes to 256 and crops 224 (87.5 %, other sizes in this ratio); DeiT III the whole image",
            ours="the released share when training; timm's 90 % (100 % at 384 pixels) for released weights",
            switch="recipe key evaluation_crop; --crop of the command robustness",
            effect="timm's evaluations with its crop are in the manifest beside the authors' numbers.",
        ),
        Deviation(
            name="smoothing_of_positions",
            publication="resizes positions bicubically",
            released="torch's bicubic interpolation; timm, which has the networks, smooths and weighs otherwise",
            ours="as released",
            switch="none",
            effect="Differs from timm in the third digit of a position; shows only after resizing.",
        ),
        Deviation(
            name="deit3_networks",
            publication="DeiT III: stochastic depth and LayerScale",
            released="one rate of stochastic depth for all blocks, scales that start at 1e-4",
            ours="as released in DeiT III's settings; timm's own rates rise from 0 and its scales start at 1e-6",
            switch="recipe keys method.drop_path and method.layer_scale",
            effect="Shows only in full-scale training.",
        ),
    ),
)
