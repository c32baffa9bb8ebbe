"""RaftMLP: an MLP-Mixer along columns and rows, for rafts of channels."""

from common.declaration import Claim, Deviation, Model, Paper
from common.downstream import CLAIMS as DOWNSTREAM
from common.robustness.full_scale import CLAIMS as FULL_SCALE

_RELEASED = (
    "raftmlp_s",
    "raftmlp_m",
    "raftmlp_l",
    "raftmlp_hierarchy_m",
    "raftmlp_r4",
    "raftmlp_r_1",
    "raftmlp_r_2",
    "raftmlp_r_2_cross_mlp_emb",
    "raftmlp_deep",
)

PAPER = Paper(
    slug="raftmlp",
    title="RaftMLP: How Much Can Be Done Without Attention and with Less Spatial Locality?",
    authors=("Yuki Tatsunami", "Masato Taki"),
    venue="ACCV 2022",
    year=2022,
    kind="architecture",
    arxiv="2108.04384",
    summary=(
        "Mixing tokens along columns and rows, a few channels at a time, makes a better MLP-Mixer of fewer parameters "
        "and less computation, which takes images of other sizes."
    ),
    repository="https://github.com/okojoalg/raft-mlp",
    commit="6060d5d",
    licence="Apache-2.0",
    bibtex="""@inproceedings{tatsunami2022raftmlp,
  title     = {{RaftMLP}: How Much Can Be Done Without Attention and with Less Spatial Locality?},
  author    = {Tatsunami, Yuki and Taki, Masato},
  booktitle = {Asian Conference on Computer Vision},
  year      = {2022}
}""",
    models=(
        *(Model(name=name, released=name) for name in _RELEASED),
        Model(name="raftmlp_org_mixer", released="org_mixer"),
    ),
    claims=(
        Claim(
            name="mixer",
            statement="At equal multiply-adds, mixing along lines makes a better network than an MLP-Mixer.",
            needs=("embedded",),
            primary="raftmlp_mini > mixer_mini: top1",
        ),
        Claim(
            name="raft_size",
            statement="At equal multiply-adds, mixing the tokens of several channels at once is better than of one.",
            needs=("embedded",),
            primary="raftmlp_mini > raftmlp_mini.raft_1: top1",
        ),
        Claim(
            name="serial",
            statement="Mixing columns and then rows is better than mixing both at once.",
            needs=("embedded",),
            primary="raftmlp_mini > raftmlp_mini.parallel: top1",
        ),
        Claim(
            name="cost",
            statement="Mixing along lines has far fewer parameters and multiply-adds than mixing all tokens.",
            primary="cost",
        ),
        Claim(
            name="reach",
            statement="One block connects all tokens.",
            primary="reach",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        *FULL_SCALE,
        *DOWNSTREAM,
    ),
    deviations=(
        Deviation(
            name="order_of_norms",
            publication="does not say",
            released="norms before token mixing count channels raft by raft, as the channels are not laid out",
            ours="norms count channels as they are laid out; a file's are reordered when it is read, and back",
            switch="none",
            effect="Outputs of released weights are the released ones.",
        ),
        Deviation(
            name="embedding",
            publication="embeds patches of several sizes by one linear layer",
            released="unfolds patches of every size and multiplies them by one matrix",
            ours="one convolution by the sum of the patches' weights around their common centre",
            switch="none",
            effect="Outputs are the same; it takes fewer multiply-adds.",
        ),
        Deviation(
            name="multiply_adds",
            publication="prints a column GFROPs without saying how they are counted",
            released="counts with ptflops (summary.py), which leaves layer norms out",
            ours="without layer norms",
            switch="none",
            effect="size",
        ),
        Deviation(
            name="mixing_of_images",
            publication="does not say",
            released=(
                "applies mixup and then CutMix to every batch, with one share each, drawn on every GPU, and reads the "
                "alpha of mixup (0.8) for both"
            ),
            ours="one of the two for a batch, by chance, with alphas of 0.8 and 1.0",
            switch="recipe keys mixup, cutmix, mix_switch_probability",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="training_crop",
            publication="does not say",
            released="resizes the shorter side to 256 and crops 224 at random; then colour jitter and RandAugment",
            ours=(
                "crops a square of 57 to 77 % of the image, which is that share for images of 4:3 to 1:1; timm leaves "
                "colour jitter out beside RandAugment"
            ),
            switch="recipe keys train_crop, crop_scale, color_jitter, auto_augment",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="weight_decay",
            publication="does not say",
            released="decays all parameters",
            ours="leaves vectors (norms and biases) alone, as all papers here",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="transfer_size",
            publication="does not say",
            released="fine-tunes on images of 256 x 224 pixels (Flowers, Cars, iNaturalist)",
            ours="224 x 224",
            switch="recipe key input_size",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="first_map",
            publication="does not say",
            released="gives detectors and segmenters the first level's embedding in place of its blocks' output",
            ours="the blocks' output as timm's models do; the embedding in the downstream configurations",
            switch="embedding_as_map",
            effect="Shows only in full-scale training.",
        ),
    ),
)
