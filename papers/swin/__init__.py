"""Swin: attention within windows that shift from block to block, at a cost linear in the image's area."""

from common.declaration import Claim, Deviation, Model, Paper
from common.downstream import CLAIMS as DOWNSTREAM
from common.robustness.full_scale import CLAIMS as FULL_SCALE
from common.robustness.full_scale import REAL_CLAIMS

#: Sizes of V1, which timm calls as the release does.
_V1 = (
    "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224",
    "swin_base_patch4_window7_224",
    "swin_base_patch4_window12_384",
    "swin_large_patch4_window7_224",
    "swin_large_patch4_window12_384",
)
#: Sizes of V2, a later publication (arXiv 2111.09883) whose models are in the same release.
_V2 = (
    "tiny_window8_256",
    "tiny_window16_256",
    "small_window8_256",
    "small_window16_256",
    "base_window8_256",
    "base_window16_256",
    "base_window12to16_192to256",
    "base_window12to24_192to384",
    "large_window12to16_192to256",
    "large_window12to24_192to384",
)
#: Of the release and not in timm.
_OWN = (
    "swin_tiny_c24_patch4_window8_256",
    "swin_mlp_tiny_c24_patch4_window8_256",
    "swin_mlp_tiny_c12_patch4_window8_256",
    "swin_mlp_tiny_c6_patch4_window8_256",
    "swin_mlp_base_patch4_window7_224",
)


def _released_v2(name: str) -> str:
    """The released name of a V2: with the patch size, and with how it was trained where its window grew."""
    return f"swinv2_{name.replace('_window', '_patch4_window')}{'_22kto1k_ft' if 'to' in name else ''}"


PAPER = Paper(
    slug="swin",
    title="Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
    authors=(
        "Ze Liu",
        "Yutong Lin",
        "Yue Cao",
        "Han Hu",
        "Yixuan Wei",
        "Zheng Zhang",
        "Stephen Lin",
        "Baining Guo",
    ),
    venue="ICCV 2021",
    year=2021,
    kind="architecture",
    arxiv="2103.14030",
    summary=(
        "Attention within windows that shift from block to block, in stages of falling resolution, makes a vision "
        "transformer a general backbone whose cost is linear in the image's area."
    ),
    repository="https://github.com/microsoft/Swin-Transformer",
    commit="f82860b",
    licence="MIT",
    bibtex="""@inproceedings{liu2021swin,
  title     = {Swin Transformer: Hierarchical Vision Transformer using Shifted Windows},
  author    = {Liu, Ze and Lin, Yutong and Cao, Yue and Hu, Han and Wei, Yixuan and Zhang, Zheng and Lin, Stephen and
               Guo, Baining},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2021}
}""",
    models=(*(Model(name=name, released=name) for name in _OWN),),
    reused_models=(
        *(Model(name=name, released=name) for name in _V1),
        *(Model(name=f"swinv2_{name}", released=_released_v2(name)) for name in _V2),
    ),
    converts=("timm.models.swin_transformer", "timm.models.swin_transformer_v2"),
    claims=(
        Claim(
            name="shifted_windows",
            statement="At equal budget shifted windows give better networks than plain windows.",
            needs=("embedded",),
            primary="swin_mini > swin_mini.plain_windows: top1",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="cyclic_shift",
            statement="A cyclic shift with a mask computes shifted windows, which connect what plain ones keep apart.",
            primary="cyclic_shift",
        ),
        Claim(
            name="complexity",
            statement="With windows the cost is linear in the image's area; with global attention it is not.",
            primary="linear",
        ),
        *FULL_SCALE,
        *REAL_CLAIMS,
        *DOWNSTREAM,
    ),
    deviations=(
        Deviation(
            name="multiply_adds",
            publication="prints multiply-adds without saying how they are counted",
            released=(
                "counts one for each element of a norm, where fvcore counts five, and none for the network that gives "
                "SwinV2's position biases; 103.95 G is printed as 103.9"
            ),
            ours="as released; the count by operator is in the measurement",
            switch="none",
            effect="size",
        ),
        Deviation(
            name="evaluation_crop",
            publication="224 and 384 pixels",
            released=(
                "resizes to 256 and crops 224 (87.5 %; other sizes in this ratio); for 384 pixels it squeezes the "
                "whole image into a square"
            ),
            ours="the released share when training; timm's 90 % (100 % at 384 pixels) for released weights",
            switch="recipe key evaluation_crop; --crop of the command robustness",
            effect="timm's evaluations with its crop are in the manifest beside the authors' numbers.",
        ),
        Deviation(
            name="schedule",
            publication="cosine decay with a linear warm-up of 20 epochs",
            released="the cosine begins where the warm-up ends (warmup_prefix)",
            ours="one cosine over all epochs, whose beginning the warm-up replaces, as timm's scheduler has it",
            switch="none",
            effect="Shows only in full-scale training: the rate at the end of the warm-up is 1 % below its largest.",
        ),
        Deviation(
            name="mask",
            publication="a mask limits attention to within each sub-window",
            released="subtracts 100 from masked scores",
            ours="as released (timm)",
            switch="none",
            effect="cyclic_shift",
        ),
        Deviation(
            name="other_windows",
            publication="interpolates relative position biases to another window bicubically",
            released="in its script for fine-tuning only",
            ours=(
                "whenever a checkpoint of another window is loaded; without a name the model is the one with the "
                "file's windows"
            ),
            switch="none",
            effect="Name the variant that a checkpoint is of, or none.",
        ),
        Deviation(
            name="classes_of_fine_tuning",
            publication="does not say",
            released=(
                "takes the rows of the 1,000 classes from the classifier of ImageNet-22k's 21,841; any other "
                "classifier starts from zeros"
            ),
            ours="a classifier for other classes than the file's starts anew, and the command says so",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="swin_mlp_shift",
            publication="nothing: Swin-MLP is in the released code alone",
            released="shifts windows by padding with zeros instead of cyclically, without a mask",
            ours="as released",
            switch="none",
            effect="Fixed by the released weights.",
        ),
    ),
)
