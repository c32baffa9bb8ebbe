"""Teaching Matters: what supervision does to the attention, features and best blocks of vision transformers."""

from common.declaration import Claim, Deviation, Paper
from common.needs import own_folder

_SPAIR = own_folder("spair-71k", "SPair-71k with PairAnnotation and JPEGImages")

PAPER = Paper(
    slug="teaching-matters",
    title="Teaching Matters: Investigating the Role of Supervision in Vision Transformers",
    authors=("Matthew Walmer", "Saksham Suri", "Kamal Gupta", "Abhinav Shrivastava"),
    venue="CVPR 2023",
    year=2023,
    kind="analysis",
    arxiv="2212.03862",
    summary=(
        "The method of supervision decides in which order a vision transformer processes local and global information "
        "and which of its blocks suits a task; offset local attention heads arise under all methods."
    ),
    repository="https://github.com/mwalmer-umd/vit_analysis",
    commit="c8810df",
    licence="MIT; vendored parts of MAE and MoCo-v3 CC BY-NC 4.0",
    builds_on=("simclr", "mixmim"),
    recipe_type="papers.teaching_matters.settings:Analysis",
    bibtex="""@inproceedings{walmer2023teaching,
  title     = {Teaching Matters: Investigating the Role of Supervision in Vision Transformers},
  author    = {Walmer, Matthew and Suri, Saksham and Gupta, Kamal and Shrivastava, Abhinav},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {7486--7496},
  year      = {2023}
}""",
    claims=(
        Claim(
            name="order",
            statement="ViTs process local and global information in an order that depends on their supervision.",
            needs=("embedded",),
            primary="vit_mini > vit_mini.masked: attention_distance_gain",
        ),
        Claim(
            name="offset_heads",
            statement="Heads that attend to one neighbour, always in the same direction, arise under all supervision.",
            needs=("embedded",),
            primary="least_of_the_trained > half_of_the_attention: offset_attention",
        ),
        Claim(
            name="best_block",
            statement="Which block is the best depends on the task: parts are found earlier than classes.",
            needs=("embedded",),
            primary="vit_mini.block_1 > vit_mini.block_3: keypoint_pck",
        ),
        Claim(
            name="parts",
            statement="Features learnt by contrast are better than supervised ones on parts of objects.",
            needs=("embedded",),
            primary="vit_mini.simclr > vit_mini: keypoint_pck",
        ),
        Claim(
            name="similarity",
            statement="Representations learnt by reconstruction are similar to those learnt by contrast.",
            needs=("embedded",),
            primary="simclr-masked > masked-untrained: cka",
        ),
        Claim(
            name="instruments",
            statement="The instruments give known answers: offset heads, similarity, purity.",
            primary="offset",
        ),
        Claim(
            name="imagenet_inside",
            statement="Attention distance and offset of every head, and similarity of blocks, on ImageNet's images.",
            needs=("imagenet", "checkpoint"),
        ),
        Claim(
            name="spair",
            statement="Keypoints of SPair-71k that each block finds in another picture of the category.",
            needs=(_SPAIR, "checkpoint"),
        ),
    ),
    deviations=(
        Deviation(
            name="attention_on_class",
            publication="attention that patches pay to the class token, by the name of the metric",
            released="reads the first patch in place of the class token",
            ours="the class token",
            switch="the argument released of attention.attention_on_class",
            effect="tests/papers/teaching_matters has both against the released values.",
        ),
        Deviation(
            name="aligned_scale",
            publication="an average over images, by the name of the metric",
            released="divides the aligned maps by the number of batches, not of images",
            ours="divides by the number of images",
            switch="none",
            effect="None on offsets, which do not see the scale.",
        ),
        Deviation(
            name="merged_heads",
            publication="not found in what we could read",
            released="divides attention in place, so that merging heads afterwards counts them equally",
            ours="heads count by what they have for patches",
            switch="the argument equal_heads of attention.attention_masks",
            effect="tests/papers/teaching_matters has both against the released values.",
        ),
        Deviation(
            name="cka_weights",
            publication="CKA over batches; the weights were not at hand",
            released="divides each Gram matrix by its largest entry before HSIC is averaged over batches",
            ours="averages HSIC as it is",
            switch="the argument released of similarity.CKA",
            effect="None for one batch; otherwise it weighs batches differently.",
        ),
        Deviation(
            name="offset_threshold",
            publication="offset local attention heads",
            released="has no threshold; shows the offset of the mean attention",
            ours="also what a head gives to one neighbour in one direction, which a far or wide look does not raise",
            switch="attention.offsets and attention.offset_attention",
            effect="offset_heads",
        ),
        Deviation(
            name="pairs",
            publication="not found in what we could read",
            released="draws pairs from NumPy's legacy generator, for categories in the order of the folder",
            ours="draws as many, for categories in alphabetical order, from NumPy's newer generator",
            switch="recipe key pairs_seed",
            effect="Shows only on SPair-71k, by what other pairs make.",
        ),
    ),
)
