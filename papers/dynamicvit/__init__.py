"""DynamicViT: small predictors decide which places of an image a network goes on computing with."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="dynamicvit",
    title="DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification",
    authors=("Yongming Rao", "Wenliang Zhao", "Benlin Liu", "Jiwen Lu", "Jie Zhou", "Cho-Jui Hsieh"),
    venue="NeurIPS 2021",
    year=2021,
    kind="architecture",
    arxiv="2106.02034",
    summary=(
        "Small predictors drop tokens of a trained vision transformer step by step, which takes a third of its cost at "
        "hardly less accuracy; a fast path does the same for ConvNeXt and Swin."
    ),
    repository="https://github.com/raoyongming/DynamicViT",
    commit="1322e62",
    licence="MIT",
    bibtex="""@inproceedings{rao2021dynamicvit,
  title     = {DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification},
  author    = {Rao, Yongming and Zhao, Wenliang and Liu, Benlin and Lu, Jiwen and Zhou, Jie and Hsieh, Cho-Jui},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2021}
}""",
    models=(
        Model(name="dynamicvit_deit_256", released="deit-256"),
        Model(name="dynamicvit_deit_small", released="deit-s"),
        Model(name="dynamicvit_deit_base", released="deit-b"),
        Model(name="dynamicvit_lvvit_small", released="lvvit-s"),
        Model(name="dynamicvit_lvvit_small_keep50", released="lvvit-s-0.5"),
        Model(name="dynamicvit_lvvit_medium", released="lvvit-m"),
        Model(name="dynamicvit_convnext_tiny", released="convnext-t"),
        Model(name="dynamicvit_convnext_tiny_keep90"),
        Model(name="dynamicvit_convnext_small", released="convnext-s"),
        Model(name="dynamicvit_convnext_small_keep90"),
        Model(name="dynamicvit_convnext_base", released="convnext-b"),
        Model(name="dynamicvit_convnext_base_keep90"),
        Model(name="dynamicvit_swin_tiny", released="swin-t"),
        Model(name="dynamicvit_swin_small", released="swin-s"),
        Model(name="dynamicvit_swin_base", released="swin-b"),
    ),
    claims=(
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="sparsification",
            statement="A network trained on to drop tokens is as accurate as one trained on without dropping any.",
            needs=("embedded",),
            primary="vit_mini+dynamicvit = vit_mini+dynamicvit.keep_all: top1",
        ),
        Claim(
            name="learned_selection",
            statement="Tokens that a predictor selects serve better than random ones, or those most attended to.",
            needs=("embedded",),
            primary="vit_mini+dynamicvit > vit_mini+dynamicvit.random: top1",
        ),
        Claim(
            name="keeping_all",
            statement="A network that keeps everything is its host.",
            primary="host",
        ),
        Claim(
            name="masking_is_dropping",
            statement="Masks in training do what dropping tokens does in inference.",
            primary="transformer",
        ),
        Claim(
            name="saving",
            statement="Dropping tokens saves a third of the multiply-adds, and as much time.",
            settles=(("-", "flops_reduction"), ("-", "throughput_gain")),
            primary="time",
        ),
        *FULL_SCALE,
    ),
    deviations=(
        Deviation(
            name="kept_counts",
            publication="could not be read",
            released=(
                "keeps rho, rho^2, rho^3 of the tokens of a transformer and rho, rho - 0.2, rho - 0.4 of the places of "
                "ConvNeXt and Swin, rounded down in double precision: 137, 97 and 58 of 196, where 98 would be half"
            ),
            ours="as released",
            switch="keep_rate, a number or one for each step",
            effect="Outputs of released weights are the released ones.",
        ),
        Deviation(
            name="other_sizes",
            publication="could not be read",
            released="takes the shares of 196 tokens in DeiT's networks, whatever the image's size",
            ours="takes them of the image's tokens",
            switch="none",
            effect="The same at 224 pixels, the size of all released weights.",
        ),
        Deviation(
            name="two_streams",
            publication="could not be read",
            released=(
                "in training, keeps two streams of features for ConvNeXt and Swin; a place that changes its path goes "
                "on with those of its new stream, in inference with its own"
            ),
            ours="as released",
            switch="none",
            effect="masking_is_dropping",
        ),
        Deviation(
            name="masked_softmax",
            publication="could not be read",
            released="adds 1e-6 to the sum of masked attention, and its N-th part to each weight",
            ours="as released",
            switch="KeptAttention.rounding",
            effect="masking_is_dropping",
        ),
        Deviation(
            name="ratio_weight",
            publication="could not be read",
            released="takes --ratio_weight for DeiT alone; it is 2 for LV-ViT and 10 for ConvNeXt and Swin",
            ours="the same values, as settings of the recipe",
            switch="recipe key method.ratio_weight",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="schedule",
            publication="could not be read",
            released="the cosine begins where the linear warm-up ends",
            ours="one cosine over all epochs, whose beginning the warm-up replaces, as timm's scheduler has it",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="batches_of_two",
            publication="could not be read",
            released="takes a batch of two images in Swin's evaluation for the two streams of training, and stops",
            ours="evaluates it",
            switch="none",
            effect="None on other batches.",
        ),
        Deviation(
            name="printed_multiply_adds",
            publication="the released README prints multiply-adds of one decimal",
            released="its own count gives up to 0.11 G more for eight of the fifteen networks",
            ours="counts as released",
            switch="none",
            effect="size",
        ),
    ),
)
