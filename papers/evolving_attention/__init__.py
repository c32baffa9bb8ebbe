"""Evolving attention: each layer's attention map grows from the one before it, by a residual link and a convolution."""

from common.declaration import Claim, Deviation, Model, Paper
from common.needs import own_folder
from common.robustness.full_scale import CLAIMS as FULL_SCALE

_TIME_SERIES = own_folder("time-series", "a folder for each data set with its .ts files, such as the library aeon has")

PAPER = Paper(
    slug="evolving-attention",
    title="Evolving Attention with Residual Convolutions",
    authors=(
        "Yujing Wang",
        "Yaming Yang",
        "Jiangang Bai",
        "Mingliang Zhang",
        "Jing Bai",
        "Jing Yu",
        "Ce Zhang",
        "Gao Huang",
        "Yunhai Tong",
    ),
    venue="ICML 2021",
    year=2021,
    kind="attention",
    arxiv="2102.12895",
    summary=(
        "Letting attention maps evolve from layer to layer, by a residual link and a convolution over them, makes "
        "better attention for images, language and time series."
    ),
    repository="https://github.com/pkuyym/EvolvingAttention",
    commit="276447b",
    licence="MIT (by its README; the licence file is missing)",
    bibtex="""@inproceedings{wang2021evolving,
  title     = {Evolving Attention with Residual Convolutions},
  author    = {Wang, Yujing and Yang, Yaming and Bai, Jiangang and Zhang, Mingliang and Bai, Jing and Yu, Jing and
               Zhang, Ce and Huang, Gao and Tong, Yunhai},
  booktitle = {International Conference on Machine Learning},
  year      = {2021}
}""",
    models=(
        Model(name="ea_resnet50", released="ea_resnet50"),
        Model(name="ea_resnet101", released="ea_resnet101"),
        Model(name="ea_vit_small_patch16_224"),
    ),
    claims=(
        Claim(
            name="images",
            statement="Evolving attention makes a better vision transformer.",
            needs=("embedded",),
            primary="vit_mini+evolving_attention > vit_mini: top1",
        ),
        Claim(
            name="parts",
            statement="The convolution over maps brings more than the residual link alone.",
            needs=("embedded",),
            primary="vit_mini+evolving_attention > vit_mini+evolving_attention.residual_link: top1",
        ),
        Claim(
            name="plain",
            statement="With both mixing weights at zero it is the plain network.",
            primary="plain",
        ),
        Claim(
            name="series_classification",
            statement="Evolving attention with dilated convolutions classifies time series better.",
            needs=(_TIME_SERIES,),
            primary="ea_dc.dilated > ea_dc.plain: series_top1",
        ),
        Claim(
            name="series_regression",
            statement="Evolving attention with dilated convolutions predicts values of time series better.",
            needs=(_TIME_SERIES,),
            primary="ea_dc.dilated > ea_dc.plain: series_error",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds, of which the sources that could be read print none.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        *FULL_SCALE,
    ),
    deviations=(
        Deviation(
            name="mixing_weights",
            publication="mixes the convolved map and the map by a weight",
            released="alpha 1 and beta 0.5 in the residual network, set nowhere: no map passes unconvolved",
            ours="as released for the residual networks; 0.5 for both in vision transformers",
            switch="alpha, beta",
            effect="parts",
        ),
        Deviation(
            name="classes",
            publication="does not say",
            released="1,001 classes, of which the first is background",
            ours="1,000, unless built with num_classes",
            switch="num_classes",
            effect="Needs released weights.",
        ),
        Deviation(
            name="series_positions",
            publication="does not say",
            released="draws terms of relative positions anew in every forward pass, also in evaluation; trains none",
            ours="learns them",
            switch='form="released"',
            effect="Outputs of released weights are random; with the same draws they are the released ones.",
        ),
        Deviation(
            name="series_layout",
            publication="does not say",
            released="lays out what heads give as it comes, so that time and channel are interleaved",
            ours="keeps time apart from channels",
            switch='form="released"',
            effect="Fixed by released weights.",
        ),
        Deviation(
            name="series_causality",
            publication="calls its convolutions causal",
            released="attends to all steps, later and padded ones too",
            ours="as released",
            switch="none",
            effect="Fixed by released weights.",
        ),
        Deviation(
            name="unread_tensors",
            publication="does not say",
            released="the time-series network stores convolutions that no layer reads",
            ours="leaves them out of what it loads and writes them as zeros",
            switch="none",
            effect="None on outputs.",
        ),
        Deviation(
            name="rate_steps",
            publication="does not say",
            released="divides the rate by ten after epochs 30, 60, 80 and 90 of 100",
            ours="after each third",
            switch="recipe key schedule",
            effect="Shows only in full-scale training.",
        ),
    ),
)
