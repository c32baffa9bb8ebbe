"""ViT: a plain transformer over patches of an image, which needs many images and then needs no convolution."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE
from common.robustness.full_scale import REAL_CLAIMS

#: timm's names, and the release's: one network for images of every size.
_MODELS = {
    "vit_base_patch16_224": "ViT-B_16",
    "vit_base_patch16_384": "ViT-B_16",
    "vit_base_patch32_384": "ViT-B_32",
    "vit_large_patch16_224": "ViT-L_16",
    "vit_large_patch16_384": "ViT-L_16",
    "vit_large_patch32_384": "ViT-L_32",
    "vit_huge_patch14_224": "ViT-H_14",
    "vit_base_r50_s16_384": "R50+ViT-B_16",
}

PAPER = Paper(
    slug="vit",
    title="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
    authors=(
        "Alexey Dosovitskiy",
        "Lucas Beyer",
        "Alexander Kolesnikov",
        "Dirk Weissenborn",
        "Xiaohua Zhai",
        "Thomas Unterthiner",
        "Mostafa Dehghani",
        "Matthias Minderer",
        "Georg Heigold",
        "Sylvain Gelly",
        "Jakob Uszkoreit",
        "Neil Houlsby",
    ),
    venue="ICLR 2021",
    year=2021,
    kind="architecture",
    arxiv="2010.11929",
    summary=(
        "A plain transformer over patches of an image, pre-trained on many images, is better than ConvNets at less "
        "cost of training."
    ),
    repository="https://github.com/google-research/vision_transformer",
    commit="c6de1e5",
    licence="Apache-2.0",
    bibtex="""@inproceedings{dosovitskiy2021image,
  title     = {An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale},
  author    = {Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and Weissenborn, Dirk and Zhai, Xiaohua
               and Unterthiner, Thomas and Dehghani, Mostafa and Minderer, Matthias and Heigold, Georg and Gelly,
               Sylvain and Uszkoreit, Jakob and Houlsby, Neil},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}""",
    reused_models=tuple(Model(name=name, released=released) for name, released in _MODELS.items()),
    converts=("timm.models.vision_transformer:vit_*",),
    claims=(
        Claim(
            name="data",
            statement="A ConvNet's lead over a vision transformer shrinks with the number of training images.",
            needs=("embedded",),
            primary="images_51200 > images_1280: convnet_lead",
        ),
        Claim(
            name="positions",
            statement="Position embeddings learn the grid: the nearer two patches, the more alike they are.",
            needs=("embedded",),
            primary="vit_mini > vit_mini.start: position_nearness",
        ),
        Claim(
            name="attention_distance",
            statement="Attention reaches farther in later blocks.",
            needs=("embedded",),
            primary="vit_mini.block_3 > vit_mini.block_1: attention_distance",
        ),
        Claim(
            name="resolution",
            statement="Positions that are resized as a grid serve images of another size.",
            needs=("embedded",),
            primary="vit_mini.grid > vit_mini.mean_position: double_size_top1",
        ),
        Claim(
            name="grid",
            statement="Beside its patches, a vision transformer knows the grid by its position embeddings alone.",
            primary="permutation",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        *FULL_SCALE,
        *REAL_CLAIMS,
    ),
    deviations=(
        Deviation(
            name="resized_positions",
            publication="the abstract does not say",
            released="bilinear between the centres of the outermost patches (scipy's zoom of order 1)",
            ours="as released for its files, in loading and in the start of fine-tuning; timm's models, when their "
            "size is changed, interpolate bicubically between the edges of the grid",
            switch="none",
            effect="resolution",
        ),
        Deviation(
            name="representation_layer",
            publication="the abstract does not say",
            released="files of pre-training have a layer before the classifier; fine-tuning drops it",
            ours="timm's networks lack it: it is left out with the classifier, and a file of it fits no network that "
            "keeps the classifier",
            switch="none",
            effect="Fine-tuning is as released.",
        ),
        Deviation(
            name="evaluation_image",
            publication="the abstract does not say",
            released="squeezes the whole image to the square, bilinearly without smoothing",
            ours="resizes the shorter side and takes the central crop that a model's configuration in timm names",
            switch="recipe key evaluation_crop; --crop of the command robustness",
            effect="timm's evaluations of the released weights are in the manifest beside the authors' numbers.",
        ),
        Deviation(
            name="dropout",
            publication="the abstract does not say",
            released="one rate after the positions, the attention and both layers of the MLP",
            ours="as released; timm's own drop_rate is before the classifier",
            switch="recipe key method.dropout",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="hybrid_norms",
            publication="the abstract does not say",
            released="adds 1e-5 to the standard deviation of a kernel, 1e-6 to the variance of a group",
            ours="timm's networks add 1e-8 and 1e-5 to the variances",
            switch="none",
            effect="Rounding alone, unless a kernel or a group is almost constant.",
        ),
    ),
)
