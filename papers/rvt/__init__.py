"""RVT: Towards Robust Vision Transformer, the host of VARS."""

from common.declaration import Claim, Deviation, Model, Paper
from common.downstream import CLAIMS as DOWNSTREAM
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="rvt",
    title="Towards Robust Vision Transformer",
    authors=(
        "Xiaofeng Mao",
        "Gege Qi",
        "Yuefeng Chen",
        "Xiaodan Li",
        "Ranjie Duan",
        "Shaokai Ye",
        "Yuan He",
        "Hui Xue",
    ),
    venue="CVPR 2022",
    year=2022,
    kind="architecture",
    arxiv="2105.07926",
    summary=(
        "Picks the components of vision transformers that help robustness, and adds position-aware attention scaling "
        "and patch-wise augmentation (the starred models) for better clean and robust accuracy at equal cost."
    ),
    repository="https://github.com/vtddggg/Robust-Vision-Transformer",
    commit="b72613f",
    licence="none stated",
    bibtex="""@inproceedings{mao2022towards,
  title     = {Towards Robust Vision Transformer},
  author    = {Mao, Xiaofeng and Qi, Gege and Chen, Yuefeng and Li, Xiaodan and Duan, Ranjie and Ye, Shaokai and
               He, Yuan and Xue, Hui},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022}
}""",
    models=tuple(
        Model(name=f"rvt_{size}{star}", released=f"rvt_{size}{star}_self_att")
        for size in ("tiny", "small", "base")
        for star in ("", "_plus")
    ),
    claims=(
        Claim(
            name="components",
            statement=(
                "Convolution in the feed-forward network, no position embedding and mean pooling make a vision "
                "transformer more robust to corruption."
            ),
            needs=("embedded",),
            primary="rvt_mini > vit_mini: corruption_top1",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="patch_augmentation",
            statement=(
                "Patch-wise augmentation makes a network more robust; as released, where the gradient of the "
                "augmented loss is discarded, it can only act through batch statistics."
            ),
            needs=("embedded",),
            primary="rvt_mini+patch_augmentation > rvt_mini: corruption_top1",
        ),
        *FULL_SCALE,
        *DOWNSTREAM,
    ),
    deviations=(
        Deviation(
            name="patch_augmentation_gradient",
            publication="trains on the loss of the patch-augmented batch and of the clean batch",
            released=(
                "sets all gradients to zero between the two backward passes, so that the augmented batch changes "
                "nothing but the running statistics of batch norm"
            ),
            ours="both losses count",
            switch='recipe key patch_augmentation_gradient = "kept" | "discarded"',
            effect="patch_augmentation",
        ),
        Deviation(
            name="scaled_blocks",
            publication="prints 91.8 M parameters for RVT-B*, which fits position-aware scaling in all 12 blocks",
            released="scales the attention of the first 5 blocks of RVT-S* and RVT-B* (88.5 M for RVT-B*)",
            ours="the released 5 blocks, so that released weights load",
            switch="rvt_base_plus(scaled_blocks=12)",
            effect="size",
        ),
        Deviation(
            name="position_scaling_start",
            publication="does not say how the position-aware scaling starts",
            released="leaves it uninitialised memory",
            ours="starts it from zeros, a constant scale of one half at every position",
            switch="none",
            effect="The released start has no defined value to compare with.",
        ),
        Deviation(
            name="single_image",
            publication="nothing",
            released="loses the batch axis of a batch of one image",
            ours="keeps it",
            switch="none",
            effect="A batch of one image fails in the released code.",
        ),
        Deviation(
            name="averaged_weights",
            publication="nothing",
            released="keeps an exponential moving average of the weights and never evaluates it",
            ours="evaluates the trained weights, and the average beside them",
            switch="recipe key ema_decay",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="feed_forward",
            publication="nothing that we could read",
            released="falls back to a feed-forward network without convolution where a token has 768 channels",
            ours="the same, as a column of the table of variants instead of a test of the width",
            switch="rvt_base(conv_mlp=True)",
            effect="Fixed by the released weights.",
        ),
    ),
)
