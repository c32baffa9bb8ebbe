"""RegionViT: regional tokens attend to each other, then each one and the local tokens of its region do."""

from common.declaration import Claim, Deviation, Model, Paper
from common.downstream import CLAIMS as DOWNSTREAM
from common.robustness.full_scale import CLAIMS as FULL_SCALE

_SIZES = ("tiny", "small", "medium", "base", "small_w14", "small_w14_peg", "base_w14", "base_w14_peg")

PAPER = Paper(
    slug="regionvit",
    title="RegionViT: Regional-to-Local Attention for Vision Transformers",
    authors=("Chun-Fu (Richard) Chen", "Rameswar Panda", "Quanfu Fan"),
    venue="ICLR 2022",
    year=2022,
    kind="architecture",
    arxiv="2106.02689",
    summary=(
        "Regional tokens that attend to each other and pass what they saw to the local tokens of their regions give a "
        "pyramid of vision transformers global context at the cost of local attention."
    ),
    repository="https://github.com/IBM/RegionViT",
    commit="77000c2",
    licence="Apache-2.0",
    bibtex="""@inproceedings{chen2022regionvit,
  title     = {RegionViT: Regional-to-Local Attention for Vision Transformers},
  author    = {Chen, Chun-Fu (Richard) and Panda, Rameswar and Fan, Quanfu},
  booktitle = {International Conference on Learning Representations},
  year      = {2022}
}""",
    models=tuple(Model(name=f"regionvit_{size}", released=f"regionvit_{size}") for size in _SIZES),
    claims=(
        Claim(
            name="regional_attention",
            statement="At equal budget attention among regional tokens gives a better network.",
            needs=("embedded",),
            primary="regionvit_mini > regionvit_mini.no_regional_attention: top1",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="one_region",
            statement="With one region regional-to-local attention is self-attention with a class token.",
            primary="one_region",
        ),
        Claim(
            name="reach",
            statement="Within a stage, regional tokens give local ones the context of the whole image.",
            primary="reach",
        ),
        Claim(
            name="cost",
            statement="Attention costs what local attention costs, and little more for the regional tokens.",
            primary="closed_form",
        ),
        Claim(
            name="position_bias",
            statement="Scores by the distance of local tokens give a better network.",
            needs=("embedded",),
            primary="regionvit_mini > regionvit_mini.no_position_bias: top1",
        ),
        *FULL_SCALE,
        *DOWNSTREAM,
    ),
    deviations=(
        Deviation(
            name="padding_in_the_corner",
            publication="the abstract does not say",
            released=(
                "masks local tokens that are padding, but in the last region of an image those behind the end of one "
                "side alone are attended to"
            ),
            ours="as released",
            switch="none",
            effect="Outputs of released weights at sizes that regions do not divide are the released ones.",
        ),
        Deviation(
            name="padding_of_regions",
            publication="the abstract does not say",
            released=(
                "pads images for the regional tokens around all sides; where one side is no multiple of a region, one "
                "that is gets a whole region more"
            ),
            ours="as released; local tokens are padded below and right, as there",
            switch="none",
            effect="Outputs of released weights at such sizes are the released ones.",
        ),
        Deviation(
            name="table_of_distances",
            publication="the abstract does not say",
            released="begins at a distance of -(window // 2) and wraps around, where others begin at 1 - window",
            ours="as released",
            switch="none",
            effect="A matter of order in the file: the table's entries are the same distances.",
        ),
        Deviation(
            name="decay_of_norms",
            publication="the abstract does not say",
            released="decays the scales of the norms in stem and halving, which have four axes there",
            ours="decays no norm",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="colours_of_detectors",
            publication="the abstract does not say",
            released="gives detectors red, green and blue, normed by the statistics of blue, green and red",
            ours="as released",
            switch="model.data_preprocessor of the config",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="detectors",
            publication="the abstract does not say",
            released="trains them by a modified Detectron2; steps of the learning rate after 28.4 and 33.8 epochs (3x)",
            ours="MMDetection, steps after 28 and 33 epochs; released detectors have other names and do not load",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
    ),
)
