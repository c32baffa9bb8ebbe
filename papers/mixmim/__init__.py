"""MixMIM: masked autoencoding in which tokens of a second image fill what is masked."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

#: Variants, as the release calls them; those with ``pretrain`` have the decoder.
_VARIANTS = (
    "mixmim_base",
    "mixmim_base_384",
    "mixmim_large",
    "mixmim_large_384",
    "mixmim_huge",
    "mixmim_base_pretrain",
    "mixmim_large_pretrain",
    "mixmim_huge_pretrain",
)

PAPER = Paper(
    slug="mixmim",
    title="MixMAE: Mixed and Masked Autoencoder for Efficient Pretraining of Hierarchical Vision Transformers",
    authors=("Jihao Liu", "Xin Huang", "Jinliang Zheng", "Yu Liu", "Hongsheng Li"),
    venue="CVPR 2023",
    year=2023,
    kind="self-supervision",
    arxiv="2205.13137",
    summary=(
        "Masked tokens are filled with visible tokens of a second image and both images are reconstructed, which "
        "removes mask symbols and suits hierarchical networks."
    ),
    repository="https://github.com/Sense-X/MixMIM",
    commit="2b2f5a9",
    licence="none stated",
    builds_on=("simclr",),
    bibtex="""@inproceedings{liu2023mixmae,
  title     = {MixMAE: Mixed and Masked Autoencoder for Efficient Pretraining of Hierarchical Vision Transformers},
  author    = {Liu, Jihao and Huang, Xin and Zheng, Jinliang and Liu, Yu and Li, Hongsheng},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2023}
}""",
    models=tuple(Model(name=name, released=name) for name in _VARIANTS),
    claims=(
        Claim(
            name="pretraining",
            statement="A network pre-trained on mixtures is better after fine-tuning than one without pre-training.",
            needs=("embedded",),
            primary="mixmim_mini.finetuned > mixmim_mini: top1",
        ),
        Claim(
            name="mixing",
            statement="Tokens of a second image in place of mask tokens give a linear probe better features.",
            needs=("embedded",),
            primary="mixmim_mini.mixed > mixmim_mini.mask_tokens: linear_probe_top1/10pct",
        ),
        Claim(
            name="separation",
            statement="Masked attention keeps the two images of a mixture apart.",
            primary="apart",
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
            name="position_order",
            publication="fixed sines and cosines; the order of the axes was not at hand",
            released="the column in the first half of the channels, the row in the second",
            ours="as released",
            switch="none",
            effect="Fixed by the released weights.",
        ),
        Deviation(
            name="one_mask",
            publication="mixes each image with another one under a random mask",
            released="draws one mask for all images of a process and mixes each with its mirror in the batch",
            ours="as released, with one mask for all processes",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="odd_batch",
            publication="mixes two different images",
            released="mixes the middle image of an odd batch with itself, where nothing is hidden from the decoder",
            ours="refuses odd batches",
            switch="none",
            effect="None: the released batch is even.",
        ),
        Deviation(
            name="layer_decay",
            publication="nothing that we could read",
            released="the last block, the norm and the classifier have 0.7 of the rate, for no layer is above them",
            ours="the same rates: the recipe's is 0.7 of the released one, and the last layer has all of it",
            switch="recipe key learning_rate",
            effect="None; tests/papers/mixmim compares the layers.",
        ),
        Deviation(
            name="schedule",
            publication="nothing that we could read",
            released="the cosine begins where the warm-up ends (util/lr_sched.py)",
            ours="one cosine over all epochs, whose beginning the warm-up replaces, as timm's scheduler has it",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="online_classifier",
            publication="none in pre-training",
            released="none",
            ours=(
                "a classifier learns beside pre-training on the image's own places, through which no gradient flows; "
                "fine-tuning starts with a new one"
            ),
            switch="none",
            effect="None on the encoder, which gets no gradient from it; tests/papers/mixmim checks that.",
        ),
    ),
)
