"""Are transformers more robust than CNNs: at equal size and by equal recipes, under attack and on shifted images."""

from common.declaration import Claim, Deviation, Model, Paper
from common.needs import own_folder
from common.robustness.full_scale import CLAIMS as FULL_SCALE

_IMAGENET_C_19 = own_folder("imagenet-c-19", "ImageNet-C with the folders of its four extra corruptions beside its 15")

PAPER = Paper(
    slug="vits-vs-cnns",
    title="Are Transformers More Robust Than CNNs?",
    authors=("Yutong Bai", "Jieru Mei", "Alan Yuille", "Cihang Xie"),
    venue="NeurIPS 2021",
    year=2021,
    kind="analysis",
    arxiv="2111.05464",
    summary=(
        "At equal size and by equal recipes CNNs withstand adversarial attacks as well as transformers; that these are "
        "better on shifted images comes from self-attention rather than from data or training."
    ),
    repository="https://github.com/ytongbai/ViTs-vs-CNNs",
    commit="99bd87d",
    licence="none stated",
    bibtex="""@inproceedings{bai2021transformers,
  title     = {Are Transformers More Robust Than {CNNs}?},
  author    = {Bai, Yutong and Mei, Jieru and Yuille, Alan and Xie, Cihang},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2021}
}""",
    models=(
        Model(name="deit_mini_patch16_224", released="deit_mini_patch16_224"),
        Model(name="deit_small_patch16_224_adv", released="deit_small_patch16_224_adv"),
        Model(name="resnet50_adv", released="resnet50"),
        Model(name="resnet50_gelu_adv", released="resnet50"),
    ),
    reused_models=(
        Model(name="deit_small_patch16_224", released="deit_small_patch16_224"),
        Model(name="resnet18", released="resnet18"),
        Model(name="resnet50", released="resnet50"),
        Model(name="resnet101", released="resnet101"),
    ),
    converts=("timm.models.resnet",),
    claims=(
        Claim(
            name="adversarial_robustness",
            statement="After adversarial training a CNN with GELU withstands attacks as well as a transformer.",
            needs=("embedded",),
            primary="resnet_mini.gelu+at = vit_mini+at: pgd20_eps4_top1",
        ),
        Claim(
            name="activation",
            statement="GELU in place of ReLU makes an adversarially trained CNN more robust.",
            needs=("embedded",),
            primary="resnet_mini.gelu+at > resnet_mini+at: pgd20_eps4_top1",
        ),
        Claim(
            name="shifted_images",
            statement="Without adversarial training a transformer is more accurate under corruption than a CNN.",
            needs=("embedded",),
            primary="vit_mini > resnet_mini: corruption_top1",
        ),
        Claim(
            name="attention",
            statement="Attention in place of a CNN's second half makes it more accurate under corruption.",
            needs=("embedded",),
            primary="hybrid_mini > resnet_mini: corruption_top1",
        ),
        Claim(
            name="identity",
            statement="Networks that are compared are of equal size and differ in what the comparison is about.",
            primary="size",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        *FULL_SCALE,
        Claim(
            name="imagenet_c_19",
            statement="Mean error over the 15 corruptions of ImageNet-C and its four extra ones.",
            needs=(_IMAGENET_C_19, "checkpoint"),
            settles=(("imagenet-c", "corruption_error_19"),),
        ),
        Claim(
            name="imagenet_pgd100",
            statement="Top-1 accuracy on ImageNet's validation set under PGD of 100 steps.",
            needs=("imagenet", "checkpoint"),
            settles=(("imagenet-1k", "pgd100_eps4_top1"),),
            measured_by="common.robustness.full_scale_measures:imagenet_pgd100",
        ),
        Claim(
            name="imagenet_autoattack",
            statement="Top-1 accuracy on ImageNet's validation set under AutoAttack.",
            needs=("imagenet", "checkpoint"),
            settles=(("imagenet-1k", "autoattack_eps4_top1"),),
            measured_by="common.robustness.full_scale_measures:imagenet_autoattack",
        ),
    ),
    deviations=(
        Deviation(
            name="start_of_attack",
            publication="could not be read",
            released=(
                "draws from a normal distribution whether an attack starts from the image, so that for shares of 0.2 "
                "(residual networks) and 0 (DeiT) it is 58 % and a half of the passes; of the attacks of its "
                "evaluation, too, half of the passes"
            ),
            ours="as released in training at full scale; a uniform draw on embedded data; evaluation starts from noise",
            switch="recipe key method.draw = released | uniform",
            effect="identity",
        ),
        Deviation(
            name="ghost_batch_norm",
            publication="could not be read",
            released=(
                "residual networks but Res50-Ori, Res50* and Res101* have batch statistics of 64 images, and in "
                "adversarial training running ones for each of a step's passes; the first are what is evaluated"
            ),
            ours="plain batch norm, which takes these first statistics from a released file",
            switch="none",
            effect="None on released weights; shows only in full-scale training.",
        ),
        Deviation(
            name="steps_of_the_rate",
            publication="could not be read",
            released="divides residual networks' rate by ten every 30 of 100 epochs in adversarial training",
            ours="after each third of the epochs",
            switch="recipe key schedule",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="augmentation_of_deit",
            publication="could not be read",
            released=(
                "the command for adversarial training of DeiT-S has mixup alone; the file that the log of AutoAttack "
                "names is called after RandAugment and CutMix, too"
            ),
            ours="as the command",
            switch="recipe keys auto_augment and cutmix",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="deit_mini",
            publication="could not be read",
            released="prints its 9.98 M parameters; the network is not in the code",
            ours="DeiT-S at width 256 with heads of 64 channels, which has 9.98 M",
            switch="the argument num_heads: other heads have the same weights",
            effect="Released weights would give another output with another number of heads.",
        ),
        Deviation(
            name="evaluation",
            publication="could not be read",
            released="images resized to 256 bilinearly and cropped to 224",
            ours="the same for networks of our own; timm's settings for those that are timm's",
            switch="--crop of the command robustness",
            effect="A few tenths of a point at full scale.",
        ),
        Deviation(
            name="autoattack",
            publication="AutoAttack",
            released="the standard ensemble; its last two attacks take 0.01 points in the logs",
            ours="the standard ensemble at full scale, its first two attacks on 30 images of embedded data",
            switch="common.bench.long_attacks",
            effect="By the released logs at most 0.01 points.",
        ),
    ),
)
