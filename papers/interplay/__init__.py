"""Architecture and adversarial robustness: the way from ResNet to ConvNeXt in steps, isotropic networks and stems."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="interplay",
    title=(
        "On the interplay of adversarial robustness and architecture components: patches, convolution and attention"
    ),
    authors=("Francesco Croce", "Matthias Hein"),
    venue="arXiv",
    year=2022,
    kind="analysis",
    arxiv="2209.06953",
    summary=(
        "Robust and other classifiers of many architectures are compared; of the changes from a ResNet to a ConvNeXt "
        "some are key and give almost 10 % higher l_inf robustness."
    ),
    bibtex="""@article{croce2022interplay,
  title   = {On the interplay of adversarial robustness and architecture components: patches, convolution and
             attention},
  author  = {Croce, Francesco and Hein, Matthias},
  journal = {arXiv preprint arXiv:2209.06953},
  year    = {2022}
}""",
    models=(
        Model(name="chain_resnet"),
        Model(name="chain_patch_stem"),
        Model(name="chain_depthwise"),
        Model(name="chain_inverted"),
        Model(name="chain_gelu"),
        Model(name="chain_layer_norm"),
        Model(name="chain_convnext"),
        Model(name="convnext_iso", released="convnext_iso"),
        Model(name="convnext_iso_cvst", released="convnext_iso_cvst"),
        Model(name="vit_s_cvst", released="vit_s_cvst"),
        Model(name="vit_m_cvst", released="vit_m_cvst"),
        Model(name="vit_b_cvst", released="vit_b_cvst"),
        Model(name="convnext_t_cvst", released="convnext_t_cvst"),
        Model(name="convnext_s_cvst", released="convnext_s_cvst"),
        Model(name="convnext_b_cvst", released="convnext_b_cvst"),
        Model(name="convnext_l_cvst", released="convnext_l_cvst"),
    ),
    reused_models=(
        Model(name="vit_small_patch16_224", released="vit_s"),
        Model(name="vit_base_patch16_224", released="vit_b"),
        Model(name="convnext_tiny", released="convnext_tiny"),
        Model(name="convnext_base", released="convnext_base"),
    ),
    converts=("timm.models.vision_transformer:*_cvst", "timm.models.convnext:*_cvst"),
    claims=(
        Claim(
            name="chain",
            statement="The changes from a ResNet to a ConvNeXt make an adversarially trained network more robust.",
            needs=("embedded",),
            primary="chain_mini.convnext+at > chain_mini.resnet+at: pgd20_eps4_top1",
        ),
        Claim(
            name="steps",
            statement="Among the steps a stem of patches in place of convolutions makes it more robust.",
            needs=("embedded",),
            primary="chain_mini.patch_stem+at > chain_mini.resnet+at: pgd20_eps4_top1",
        ),
        Claim(
            name="unseen_attacks",
            statement="The changes make it more robust against attacks that it was not trained against, too.",
            needs=("embedded",),
            primary="chain_mini.convnext+at > chain_mini.resnet+at: pgd20_l2_top1",
        ),
        Claim(
            name="isotropic",
            statement="A ConvNeXt in stages is more robust than an isotropic one.",
            needs=("embedded",),
            primary="chain_mini.convnext+at > chain_mini.isotropic+at: pgd20_eps4_top1",
        ),
        Claim(
            name="identity",
            statement="The way begins at ResNet-50, ends at ConvNeXt-T, and each step changes what it names.",
            primary="last",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every network.",
            measured_by="common.profiling.size:size",
        ),
        *FULL_SCALE,
        Claim(
            name="imagenet_autoattack",
            statement="Top-1 accuracy on ImageNet's validation set under AutoAttack.",
            needs=("imagenet", "checkpoint"),
            settles=(("imagenet-1k", "autoattack_eps4_top1"),),
            measured_by="common.robustness.full_scale_measures:imagenet_autoattack",
        ),
        Claim(
            name="imagenet_unseen_attacks",
            statement="Top-1 accuracy on ImageNet's validation set under AutoAttack in l_2 and l_1.",
            needs=("imagenet", "checkpoint"),
            settles=(("imagenet-1k", "autoattack_l2_eps2_top1"), ("imagenet-1k", "autoattack_l1_eps75_top1")),
            measured_by="common.robustness.full_scale_measures:imagenet_autoattack_unseen",
        ),
    ),
    deviations=(
        Deviation(
            name="steps",
            publication="an ablation from ResNet to ConvNeXt (abstract); its steps could not be read",
            released="nothing was released",
            ours=(
                "the changes of ConvNeXt's publication in six steps; kernels grow when they become depth-wise, blocks' "
                "share of stages comes with the first step, separate strided convolutions and learned scales with the "
                "last"
            ),
            switch="model.STEPS",
            effect="steps",
        ),
        Deviation(
            name="plain_training",
            publication="compares robust and other classifiers (abstract)",
            released="nothing was released",
            ours="adversarially trained networks alone on embedded data; any recipe at full scale",
            switch="--recipe clean of the command train",
            effect="Could be measured by eight more contenders of the embedded experiment.",
        ),
        Deviation(
            name="apgd",
            publication="could not be read",
            released=(
                "the follow-up trains against two steps of APGD, the first of twice epsilon, and takes of the images "
                "on the way the last that are misclassified, or those of the largest loss"
            ),
            ours="two steps of PGD of twice epsilon, and the last images",
            switch="recipe keys method.step and method.steps",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="isotropic_width",
            publication="could not be read",
            released="the follow-up's code has a switch for stems of 432 channels, and isotropic blocks of 384",
            ours="384 channels",
            switch="none",
            effect="A released file of 432 channels would be refused.",
        ),
    ),
)
