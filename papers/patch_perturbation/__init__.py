"""Are vision transformers robust to patch perturbations: one patch corrupted or attacked, and where attention goes."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="patch-perturbation",
    title="Are Vision Transformers Robust to Patch Perturbations?",
    authors=("Jindong Gu", "Volker Tresp", "Yao Qin"),
    venue="ECCV 2022",
    year=2022,
    kind="analysis",
    arxiv="2111.10659",
    summary=(
        "Vision transformers withstand a naturally corrupted patch better than convolutional networks, since attention "
        "ignores it, and an adversarial patch worse, since attention goes to it; spreading attention helps."
    ),
    repository="https://github.com/JindongGu/ViT_Patch_Robustness",
    commit="20dee4c",
    licence="none stated",
    bibtex="""@inproceedings{gu2022vision,
  title     = {Are Vision Transformers Robust to Patch Perturbations?},
  author    = {Gu, Jindong and Tresp, Volker and Qin, Yao},
  booktitle = {European Conference on Computer Vision},
  pages     = {404--421},
  year      = {2022}
}""",
    reused_models=(
        Model(name="deit_tiny_patch16_224"),
        Model(name="deit_small_patch16_224"),
        Model(name="resnet18"),
        Model(name="resnet50"),
    ),
    claims=(
        Claim(
            name="adversarial_patches",
            statement="One adversarial patch fools a ViT more often than a ResNet.",
            needs=("embedded",),
            primary="resnet_mini > vit_mini: patch_attack_fooling",
        ),
        Claim(
            name="natural_patches",
            statement="One corrupted patch fools a ViT less often than a ResNet.",
            needs=("embedded",),
            primary="vit_mini > resnet_mini: patch_corruption_fooling",
        ),
        Claim(
            name="attention",
            statement="An attacked patch draws the attention of a ViT.",
            needs=("embedded",),
            primary="vit_mini.attacked > vit_mini.clean: patch_attention",
        ),
        Claim(
            name="temperature",
            statement="A ViT whose attention is spread by a temperature is fooled less often by an adversarial patch.",
            needs=("embedded",),
            primary="vit_mini.temperature_2 > vit_mini.temperature_1: patch_attack_fooling",
        ),
        Claim(
            name="identity",
            statement="Temperature, rollout and patches do what they say and nothing else.",
            primary="temperature",
        ),
        *FULL_SCALE,
        Claim(
            name="imagenet_patches",
            statement="Fooling rates of every patch of 32 pixels of ImageNet's images, corrupted and attacked.",
            needs=("imagenet", "checkpoint"),
        ),
    ),
    deviations=(
        Deviation(
            name="rollout",
            publication="rollout attention",
            released="divides each column by the sum of the row of its number, so that rows do not sum to 1",
            ours="divides each row by its sum",
            switch="the argument released of attention.rollout",
            effect="identity",
        ),
        Deviation(
            name="discarded_attention",
            publication="could not be read",
            released="leaves out the smallest 90 % of a block's attention, of the first image of a batch alone",
            ours="of every image, in pictures; nothing is left out of the shares that are measured",
            switch="the argument discard of attention.rollout",
            effect="Pictures are of single images, where both are the same.",
        ),
        Deviation(
            name="steps",
            publication="could not be read",
            released="up to 10,000 steps of 2/255 for each patch",
            ours="as released on ImageNet; 20 steps of 16/255 on embedded data",
            switch="the settings of method.PatchAttack",
            effect="Shows only with more compute than the embedded experiment may have.",
        ),
        Deviation(
            name="temperature",
            publication="temperature-scaled attention improves robustness",
            released="is not there",
            ours="logits of every block's attention over the temperature, after training",
            switch="attention.tempered",
            effect="temperature",
        ),
    ),
)
