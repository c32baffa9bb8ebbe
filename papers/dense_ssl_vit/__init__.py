"""Dense self-supervision: vision transformers pre-trained by a contrast of pixel-level with global representations."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="dense-ssl-vit",
    title="Self-Supervised Pre-training of Vision Transformers for Dense Prediction Tasks",
    authors=("Jaonary Rabarisoa", "Valentin Belissen", "Florian Chabot", "Quoc-Cuong Pham"),
    venue="arXiv",
    year=2022,
    kind="self-supervision",
    arxiv="2205.15173",
    summary=(
        "A contrastive loss across views between pixel-level and global representations gives vision transformers "
        "better local features, for segmentation and depth, and does not suffer from small batches."
    ),
    builds_on=("simclr",),
    bibtex="""@article{rabarisoa2022self,
  title   = {Self-Supervised Pre-training of Vision Transformers for Dense Prediction Tasks},
  author  = {Rabarisoa, Jaonary and Belissen, Valentin and Chabot, Florian and Pham, Quoc-Cuong},
  journal = {arXiv preprint arXiv:2205.15173},
  year    = {2022}
}""",
    models=(Model(name="dense_ssl_vit_small_patch16_224"),),
    claims=(
        Claim(
            name="dense",
            statement="The dense contrast gives local features that segment better than those of the global contrast.",
            needs=("embedded",),
            primary="vit_mini.dense > vit_mini.global: frozen_miou",
        ),
        Claim(
            name="finetuning",
            statement="After fine-tuning, too, a network that was pre-trained by the dense contrast segments better.",
            needs=("embedded",),
            primary="vit_mini.dense > vit_mini.global: finetuned_miou",
        ),
        Claim(
            name="few_images",
            statement="The dense contrast loses less than the global one where few images are contrasted.",
            needs=("embedded",),
            primary="vit_mini.dense > vit_mini.global: small_group_loss",
        ),
        Claim(
            name="loss",
            statement="The contrast has one negative for each local feature of every other image.",
            primary="negatives",
        ),
        *FULL_SCALE,
    ),
    deviations=(
        Deviation(
            name="form_of_the_loss",
            publication="compares pixel-level representations to global image representations across views",
            released="nothing",
            ours="the class token is the anchor, patches of the other view are positives, of other images negatives",
            switch="method.features",
            effect="dense",
        ),
        Deviation(
            name="small_batches",
            publication="does not suffer from a reduced batch size",
            released="nothing",
            ours="batch and steps stay; an image is told from those of a group of 8 instead of from all of the batch",
            switch="method.group",
            effect="few_images",
        ),
        Deviation(
            name="settings",
            publication="not found in what we could read",
            released="nothing",
            ours="network, heads, views and optimisation are ours",
            switch="the recipe",
            effect="Nothing is known to compare with.",
        ),
    ),
)
