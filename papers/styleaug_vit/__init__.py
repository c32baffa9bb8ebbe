"""How to augment your ViTs? StyleAug and a consistency loss, from the publication's abstract."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="styleaug-vit",
    title="How to augment your ViTs? Consistency loss and StyleAug, a random style transfer augmentation",
    authors=("Akash Umakantha", "Joao D. Semedo", "S. Alireza Golestaneh", "Wan-Yi S. Lin"),
    venue="arXiv",
    year=2021,
    kind="augmentation",
    arxiv="2112.09260",
    summary=(
        "Random style transfer is the best augmentation for vision transformers, where RandAugment and AugMix suit "
        "convolutional networks, and a consistency loss between augmented views helps transformers in particular."
    ),
    bibtex="""@article{umakantha2021augment,
  title   = {How to augment your {ViTs}? Consistency loss and {StyleAug}, a random style transfer augmentation},
  author  = {Umakantha, Akash and Semedo, Joao D. and Golestaneh, S. Alireza and Lin, Wan-Yi S.},
  journal = {arXiv preprint arXiv:2112.09260},
  year    = {2021}
}""",
    reused_models=(
        Model(name="deit_small_patch16_224"),
        Model(name="resnet50"),
    ),
    builds_on=("augmix",),
    claims=(
        Claim(
            name="architectures",
            statement="StyleAug brings a transformer more accuracy under corruption than it brings a residual network.",
            needs=("embedded",),
            primary="vit_mini > resnet_mini: styleaug_gain",
        ),
        Claim(
            name="consistency",
            statement="With StyleAug, a consistency loss makes a transformer more accurate at equal budget.",
            needs=("embedded",),
            primary="vit_mini+styleaug > vit_mini+styleaug.no_consistency: top1",
        ),
        Claim(
            name="embeddings",
            statement="Random styles have the distribution that is given, and their strength goes from none to all.",
            primary="covariance",
        ),
        *FULL_SCALE,
    ),
    deviations=(
        Deviation(
            name="style_transfer",
            publication="names random style transfer; which network is not in the abstract",
            released="nothing was released",
            ours="that of Jackson et al. (github.com/philipjackson/style-augmentation @0273e2e), with its weights",
            switch="recipe key method.network",
            effect="Needs released weights; embedded images pass the bench's autoencoder.",
        ),
        Deviation(
            name="blue_channel",
            publication="nothing that we could read",
            released="Jackson et al. normalise blue with 0.255 and scale it back with 0.225",
            ours="as released, with which the style predictor was trained",
            switch="released_blue of papers.styleaug_vit.transfer.Predictor",
            effect="Needs released weights.",
        ),
        Deviation(
            name="statistics_of_the_predictor",
            publication="nothing that we could read",
            released="Jackson et al. never call eval(): the predicted style of an image depends on its batch",
            ours="the predictor's own statistics",
            switch="recipe key method.batch_statistics",
            effect="Needs released weights; both are held against recorded outputs.",
        ),
        Deviation(
            name="consistency_loss",
            publication="a consistency loss between augmented views; its form is not in the abstract",
            released="nothing was released",
            ours="the Jensen-Shannon divergence of predictions for an image and its restyled form, both with the label",
            switch="recipe key method.consistency",
            effect="consistency",
        ),
    ),
)
