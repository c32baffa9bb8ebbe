"""Intriguing Properties of Vision Transformers: occlusion, shuffling, shape bias, segmentation from attention."""

from common.declaration import Claim, Deviation, Model, Paper
from common.needs import own_folder
from common.robustness.full_scale import CLAIMS as FULL_SCALE
from common.robustness.full_scale import CUE_CONFLICT

_DINO = own_folder("dino", "the folder of dino_deitsmall16_pretrain.pth, DINO's released ViT-S/16")
_PASCAL_VOC = own_folder("pascal-voc", "PASCAL VOC 2012 with JPEGImages, SegmentationClass and ImageSets")

PAPER = Paper(
    slug="intriguing-vit",
    title="Intriguing Properties of Vision Transformers",
    authors=(
        "Muzammal Naseer",
        "Kanchana Ranasinghe",
        "Salman Khan",
        "Munawar Hayat",
        "Fahad Shahbaz Khan",
        "Ming-Hsuan Yang",
    ),
    venue="NeurIPS 2021",
    year=2021,
    kind="analysis",
    arxiv="2105.10497",
    summary=(
        "Vision transformers keep much more of their accuracy than convolutional networks when patches are dropped or "
        "shuffled, rely less on texture, and segment objects by their attention without supervision."
    ),
    repository="https://github.com/Muzammal-Naseer/Intriguing-Properties-of-Vision-Transformers",
    commit="9aa9fea",
    licence="none stated",
    bibtex="""@inproceedings{naseer2021intriguing,
  title     = {Intriguing Properties of Vision Transformers},
  author    = {Naseer, Muzammal and Ranasinghe, Kanchana and Khan, Salman and Hayat, Munawar and Khan, Fahad Shahbaz and
               Yang, Ming-Hsuan},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2021}
}""",
    # A file is tried on the models in this order; timm's DeiT would resample patches until they fit.
    models=(
        Model(name="deit_tiny_no_position_patch16_224", released="no_pos_deit_t"),
        *(Model(name=f"deit_tiny_patch{patch}_224", released=f"patch_{patch}_deit_t") for patch in (22, 28, 32, 38)),
    ),
    reused_models=(
        Model(name="deit_tiny_patch16_224"),
        Model(name="deit_small_patch16_224"),
        Model(name="deit_base_patch16_224"),
        Model(name="deit_tiny_distilled_patch16_224", released="dino_tiny_dist"),
        Model(name="deit_small_distilled_patch16_224", released="dino_small_dist"),
        Model(name="resnet50"),
    ),
    claims=(
        Claim(
            name="occlusion",
            statement="At equal budget a ViT is more accurate than a ResNet when patches are dropped.",
            needs=("embedded",),
            primary="vit_mini > resnet_mini: random_drop_top1",
        ),
        Claim(
            name="permutation_invariance",
            statement="Without position embedding a vision transformer does not notice that its patches are shuffled.",
            primary="same_logits",
        ),
        Claim(
            name="shuffling",
            statement="At equal budget a ViT is more accurate than a ResNet when patches are shuffled.",
            needs=("embedded",),
            primary="vit_mini > resnet_mini: shuffle_top1",
        ),
        Claim(
            name="shape",
            statement="At equal budget a ViT decides more by shape, and less by texture, than a ResNet.",
            needs=("embedded",),
            primary="vit_mini > resnet_mini: shape_bias",
        ),
        Claim(
            name="shape_training",
            statement="Trained on images whose texture says nothing of the class, a ViT decides more by shape.",
            needs=("embedded",),
            primary="vit_mini+shape > vit_mini: shape_bias",
        ),
        Claim(
            name="segmentation",
            statement="The attention of a ViT that was trained to classify segments objects.",
            needs=("embedded",),
            primary="vit_mini > whole_canvas: jaccard",
        ),
        *FULL_SCALE,
        Claim(
            name="imagenet_occlusion",
            statement=(
                "Top-1 accuracy on ImageNet's validation set with patches shuffled, dropped at random and, with "
                "DINO's weights (--dino DIR), by salience."
            ),
            needs=("imagenet", "checkpoint"),
            takes=(_DINO,),
            settles=(("imagenet-1k", "random_drop_top1/0.8"),),
        ),
        CUE_CONFLICT,
        Claim(
            name="pascal_voc",
            statement="Jaccard index of the last attention's best head with the objects of PASCAL VOC 2012.",
            needs=(_PASCAL_VOC, "checkpoint"),
            settles=(("pascal-voc-2012", "jaccard"),),
        ),
    ),
    deviations=(
        Deviation(
            name="draws",
            publication="drops patches at random",
            released="one draw for all images of a batch, from NumPy's unseeded generator",
            ours="a draw an image, from a seed that is the image's number; the same for every model",
            switch="generator= instead of seeds= of common.robustness.occlusion",
            effect="The mean is the same; the spread over draws becomes smaller.",
        ),
        Deviation(
            name="void",
            publication="not found in what we could read",
            released="pixels marked void count as background; a comparison that should leave them out is always true",
            ours="as released, since the printed numbers come from it; the index without them is in each measurement",
            switch="the argument counted of common.attention.jaccard",
            effect="pascal_voc",
        ),
        Deviation(
            name="normalisation_for_dino",
            publication="patches are salient by DINO's attention",
            released="gives DINO images normalised by the statistics of the network that is measured",
            ours="DINO's own statistics",
            switch="none",
            effect="None where both have ImageNet's statistics, as DeiT and ResNet-50 have.",
        ),
        Deviation(
            name="preprocessing",
            publication="not found in what we could read",
            released="resizes to 256 pixels bilinearly and crops 224 for every network",
            ours="each network's own evaluation, as timm declares it",
            switch="none",
            effect="Needs released weights.",
        ),
        Deviation(
            name="attention_map",
            publication="the class token's attention in the last block",
            released="computes the whole map of that block, of which it needs a row, without a fused kernel",
            ours="the row, from the queries and keys of a pass that is otherwise as always",
            switch="none",
            effect="The same numbers to float32 rounding.",
        ),
        Deviation(
            name="known_salience",
            publication="estimates salient patches by DINO's attention",
            released="the second head of DINO ViT-S/16's last block",
            ours="the same on ImageNet; on canvases the garment's pixels, which are known",
            switch="the saliency in the batches of common.robustness.occlusion_curves",
            effect="What is salient on canvases is exact.",
        ),
    ),
)
