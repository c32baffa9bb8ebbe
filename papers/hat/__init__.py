"""HAT: adversarial training of high frequencies, in the first part of a vision transformer's training."""

from common.declaration import Claim, Deviation, Model, Paper
from common.downstream import CLAIMS as DOWNSTREAM
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="hat",
    title="Improving Vision Transformers by Revisiting High-frequency Components",
    authors=("Jiawang Bai", "Li Yuan", "Shu-Tao Xia", "Shuicheng Yan", "Zhifeng Li", "Wei Liu"),
    venue="ECCV 2022",
    year=2022,
    kind="adversarial training",
    arxiv="2204.00993",
    summary=(
        "Vision transformers use the high frequencies of images less well than convolutional networks; perturbing them "
        "adversarially in the first part of training makes the transformers better, also under distribution shift."
    ),
    repository="https://github.com/jiawangbai/HAT",
    commit="1b772b4",
    licence="MIT",
    bibtex="""@inproceedings{bai2022improving,
  title     = {Improving Vision Transformers by Revisiting High-frequency Components},
  author    = {Bai, Jiawang and Yuan, Li and Xia, Shu-Tao and Yan, Shuicheng and Li, Zhifeng and Liu, Wei},
  booktitle = {European Conference on Computer Vision},
  year      = {2022}
}""",
    builds_on=("swin",),
    reused_models=(
        Model(name="deit_tiny_patch16_224", released="hat_vit_tiny_patch16_224"),
        Model(name="deit_small_patch16_224", released="hat_vit_small_patch16_224"),
        Model(name="deit_base_patch16_224", released="hat_vit_base_patch16_224"),
        Model(name="deit_base_distilled_patch16_224", released="hat_deit_base_distilled_patch16_224"),
        *(
            Model(
                name=f"swin_{size}_patch4_window7_224",
                released=f"hat_swin_{size}_patch4_window7_224",
            )
            for size in ("tiny", "small", "base")
        ),
        *(
            Model(name=f"volo_{size}", released=f"hat_volo_{size}")
            for size in ("d1_224", "d1_384", "d5_224", "d5_448", "d5_512")
        ),
    ),
    claims=(
        Claim(
            name="accuracy",
            statement="At equal compute HAT gives a more accurate vision transformer.",
            needs=("embedded",),
            primary="vit_mini+hat > vit_mini: top1",
        ),
        Claim(
            name="identity",
            statement="HAT perturbs the frequencies above its radius alone, within epsilon, and leaves the clean loss.",
            primary="high_frequencies_alone",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="high_frequencies",
            statement="On high frequencies alone a convolutional network is more accurate than a vision transformer.",
            needs=("embedded",),
            primary="resnet_mini > vit_mini: high_pass_top1",
        ),
        Claim(
            name="compensation",
            statement="HAT raises a vision transformer's accuracy on high frequencies alone.",
            needs=("embedded",),
            primary="vit_mini+hat > vit_mini: high_pass_top1",
        ),
        Claim(
            name="adversarial_training",
            statement="HAT gives a more accurate vision transformer than adversarial training as usual.",
            needs=("embedded",),
            primary="vit_mini+hat > vit_mini+adversarial: top1",
        ),
        *FULL_SCALE,
        Claim(
            name="imagenet_frequency",
            statement="Top-1 accuracy on ImageNet's validation set behind low and high pass filters.",
            needs=("imagenet", "checkpoint"),
            measured_by="common.robustness.full_scale_measures:imagenet_frequency",
        ),
        *DOWNSTREAM,
    ),
    deviations=(
        Deviation(
            name="form",
            publication="directly augments high-frequency components via adversarial training (abstract)",
            released=(
                "filters nothing; epsilon is that of normalised images, 0.45/255 of a pixel's range where 2/255 is "
                "meant; the gradients of all passes add up, those of perturbed images as a mean"
            ),
            ours=(
                "as released for ImageNet, since the printed numbers come from it; the published form, with a filter "
                "on the perturbation and epsilon in pixel units, for small networks"
            ),
            switch="recipe key method.form = released | published",
            effect="compensation",
        ),
        Deviation(
            name="radius",
            publication="nothing that we could read",
            released="has no filter",
            ours="a quarter of the highest frequency along an axis",
            switch="recipe key method.radius",
            effect="Could be measured by another contender of the embedded experiment for each radius.",
        ),
        Deviation(
            name="clean_prediction",
            publication="nothing that we could read",
            released=(
                "takes the prediction for clean images from a pass of its own, which differs from that of the clean "
                "loss by stochastic depth, also in the epochs after the adversarial ones"
            ),
            ours="that of the clean loss's pass, a forward pass less",
            switch="none",
            effect="None without dropout and stochastic depth; with them a term of weight 0.01.",
        ),
        Deviation(
            name="range",
            publication="nothing that we could read",
            released="does not keep perturbed pixels between black and white",
            ours="as released",
            switch="none",
            effect="At most 2/255 beyond them.",
        ),
    ),
)
