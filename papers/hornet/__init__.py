"""HorNet: convolutions that gate each other again and again, for interactions of any order between positions."""

from common.declaration import Claim, Deviation, Model, Paper
from common.downstream import CLAIMS as DOWNSTREAM
from common.robustness.full_scale import CLAIMS as FULL_SCALE

_SIZES = (
    "tiny_7x7",
    "tiny_gf",
    "small_7x7",
    "small_gf",
    "base_7x7",
    "base_gf",
    "base_gf_img384",
    "large_7x7",
    "large_gf",
    "large_gf_img384",
)

PAPER = Paper(
    slug="hornet",
    title="HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions",
    authors=("Yongming Rao", "Wenliang Zhao", "Yansong Tang", "Jie Zhou", "Ser-Nam Lim", "Jiwen Lu"),
    venue="NeurIPS 2022",
    year=2022,
    kind="architecture",
    arxiv="2207.14284",
    summary=(
        "Recursive gated convolutions multiply features of different places as often as one likes, at little more "
        "cost, and make a better backbone than self-attention does in a similar architecture."
    ),
    repository="https://github.com/raoyongming/HorNet",
    commit="ac9e210",
    licence="MIT",
    bibtex="""@inproceedings{rao2022hornet,
  title     = {HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions},
  author    = {Rao, Yongming and Zhao, Wenliang and Tang, Yansong and Zhou, Jie and Lim, Ser-Nam and Lu, Jiwen},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022}
}""",
    models=tuple(Model(name=f"hornet_{size}", released=f"hornet_{size}") for size in _SIZES),
    claims=(
        Claim(
            name="gated_convolution",
            statement="At equal parameters gated convolutions are better than attention, and than plain ones.",
            needs=("embedded",),
            primary="pyramid_mini+gated_convolution > pyramid_mini: top1",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="degree",
            statement="A gated convolution of order n multiplies features of n + 1 places with each other.",
            primary="degree",
        ),
        Claim(
            name="bound",
            statement="The order costs little: all orders stay below one bound on multiply-adds.",
            primary="bound",
        ),
        Claim(
            name="interactions",
            statement="At equal parameters gated convolutions of higher order are better.",
            needs=("embedded",),
            primary="pyramid_mini+gated_convolution > pyramid_mini+gated_convolution.order_1: top1",
        ),
        Claim(
            name="global_filters",
            statement="At equal parameters global filters are better than 7x7 convolutions, at other sizes, too.",
            needs=("embedded",),
            primary="pyramid_mini+gated_convolution.global_filters > pyramid_mini+gated_convolution: top1",
        ),
        *FULL_SCALE,
        *DOWNSTREAM,
    ),
    deviations=(
        Deviation(
            name="gate_scale",
            publication="the abstract does not say",
            released="multiplies every gate by 1/3, behind a global filter's last norm, too",
            ours="as released",
            switch="mixer=partial(GatedConvolution, scale=...)",
            effect="Fixed by the released weights.",
        ),
        Deviation(
            name="global_filter_channels",
            publication="the abstract does not say",
            released="lets channels of both halves alternate, before they are split into gates",
            ours="as released",
            switch="none",
            effect="Every gate has local and global channels; fixed by the released weights.",
        ),
        Deviation(
            name="other_sizes",
            publication="the abstract does not say",
            released="resizes it bilinearly over its frequencies with aligned corners, in every forward pass",
            ours="as released; img_size stores it for another size, to which fine-tuning resizes a file's",
            switch="img_size",
            effect="Outputs of released weights at other sizes are the released ones.",
        ),
        Deviation(
            name="multiply_adds",
            publication="the released README prints multiply-adds without saying how they are counted",
            released=(
                "counts with fvcore, which sees only norms that are not written out, and takes C H W ceil(log2(C H)) "
                "for a Fourier transform of C channels"
            ),
            ours="as released; the count by operator is in the measurement",
            switch="none",
            effect="size",
        ),
        Deviation(
            name="classes_of_22k",
            publication="the released README prints 209 M, 211 M and 216 M parameters for HorNet-L",
            released=(
                "files with the classifier of ImageNet-22k; the map of classes in the repository goes up to class "
                "10,458, and 10,459 classes give the three printed sizes; with 1,000 they are 194.5, 196.3 and 201.8 M"
            ),
            ours="1,000 classes, unless the model is built with num_classes",
            switch="num_classes",
            effect="size",
        ),
        Deviation(
            name="schedule",
            publication="the abstract does not say",
            released="the cosine begins where the linear warm-up ends",
            ours="one cosine over all epochs, whose beginning the warm-up replaces, as timm's scheduler has it",
            switch="none",
            effect="Shows only in full-scale training: the rate at the end of the warm-up is 1 % below its largest.",
        ),
        Deviation(
            name="classes_of_fine_tuning",
            publication="the abstract does not say",
            released="takes the rows of the 1,000 classes from the classifier of ImageNet-22k",
            ours="a classifier for other classes than the file's starts anew, and the command says so",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="evaluation_crop",
            publication="the released README says 224 and 384 pixels",
            released="resizes to 256 and crops 224; squeezes the whole image into a square of 384 pixels",
            ours="the same share at 224 pixels; at 384 the shorter side is resized to 384 and the centre is cropped",
            switch="recipe key evaluation_crop; --crop of the command robustness",
            effect="Needs released weights.",
        ),
    ),
)
