"""The Many Faces of Robustness: DeepAugment, ImageNet-R, and no method that helps under every shift."""

from common.declaration import Claim, Deviation, Model, Paper
from common.needs import own_folder
from common.robustness.full_scale import CLAIMS as FULL_SCALE
from common.robustness.full_scale import CORRUPTION_CELLS, CUE_CONFLICT

_REAL_BLURRY = own_folder("real-blurry-images", "Real Blurry Images, 100 class folders named by WordNet ids")

PAPER = Paper(
    slug="imagenet-r",
    title="The Many Faces of Robustness: A Critical Analysis of Out-of-Distribution Generalization",
    authors=(
        "Dan Hendrycks",
        "Steven Basart",
        "Norman Mu",
        "Saurav Kadavath",
        "Frank Wang",
        "Evan Dorundo",
        "Rahul Desai",
        "Tyler Zhu",
        "Samyak Parajuli",
        "Mike Guo",
        "Dawn Song",
        "Jacob Steinhardt",
        "Justin Gilmer",
    ),
    venue="ICCV 2021",
    year=2021,
    kind="augmentation",
    arxiv="2006.16241",
    summary=(
        "Four real distribution shifts show that no method helps under all of them; DeepAugment, images that passed "
        "image-to-image networks with distorted weights, helps under corruption and with renditions."
    ),
    repository="https://github.com/hendrycks/imagenet-r",
    commit="3131cac",
    licence="MIT",
    bibtex="""@inproceedings{hendrycks2021many,
  title     = {The Many Faces of Robustness: A Critical Analysis of Out-of-Distribution Generalization},
  author    = {Hendrycks, Dan and Basart, Steven and Mu, Norman and Kadavath, Saurav and Wang, Frank and Dorundo, Evan
               and Desai, Rahul and Zhu, Tyler and Parajuli, Samyak and Guo, Mike and Song, Dawn and
               Steinhardt, Jacob and Gilmer, Justin},
  booktitle = {International Conference on Computer Vision},
  year      = {2021}
}""",
    models=(Model(name="resnet50_deepaugment", released="deepaugment"),),
    builds_on=("augmix",),
    claims=(
        Claim(
            name="many_faces",
            statement="No method is the best under every shift.",
            needs=("embedded",),
            primary="no_method_on_all",
        ),
        Claim(
            name="deepaugment",
            statement="At equal budget DeepAugment raises accuracy under corruption.",
            needs=("embedded",),
            primary="resnet_mini+deepaugment > resnet_mini: corruption_top1",
        ),
        Claim(
            name="complementary",
            statement="DeepAugment and AugMix together are better under corruption than AugMix alone.",
            needs=("embedded",),
            primary="resnet_mini+deepaugment+augmix > resnet_mini+augmix: corruption_top1",
        ),
        Claim(
            name="distortion",
            statement="Distortions change the weights that they may change; Noise2Net keeps images apart.",
            needs=("embedded",),
            primary="weights",
        ),
        *FULL_SCALE,
        CORRUPTION_CELLS,
        CUE_CONFLICT,
        Claim(
            name="real_blurry_images",
            statement="Top-1 accuracy on Real Blurry Images over their classes.",
            needs=(_REAL_BLURRY, "checkpoint"),
        ),
    ),
    deviations=(
        Deviation(
            name="renewal_of_weights",
            publication="nothing that we could read",
            released="draws weights anew with a probability of 0.05 before each image, from unseeded generators",
            ours="after every 20 images, from a seed, so that an interrupted run goes on as any other",
            switch="IMAGES_A_DRAW of papers.imagenet_r.method",
            effect="As many distorted networks on average.",
        ),
        Deviation(
            name="list_of_distortions",
            publication="zeroes, negates, transposes, convolves and otherwise changes weights and features",
            released=(
                "some distortions are not what they seem: exchanged channels are copied, skipped layers leave one, "
                "random factors are never below 1, a second flipped layer stays, the autoencoder's ninth is never drawn"
            ),
            ours="as released, from which the distorted sets come",
            switch="the lists in papers.imagenet_r.distortions",
            effect="Fixed by the released code; each is held against its recorded outputs.",
        ),
        Deviation(
            name="stored_images",
            publication="nothing that we could read",
            released="saves distorted images under the names of the originals, mostly as JPEG",
            ours="PNG, without loss",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="first_half_of_noise2net",
            publication="nothing that we could read",
            released="distorts the first half of a batch, which is in random order",
            ours="the same",
            switch="none",
            effect="None: the order is random.",
        ),
        Deviation(
            name="embedded_networks",
            publication="EDSR and a compressive autoencoder, trained on photographs",
            released="as published",
            ours=(
                "embedded images pass the bench's autoencoder, 50 with the same distortion; what leaves the range is "
                "pressed into it where photographs are clipped"
            ),
            switch="GROUP of papers.imagenet_r.experiment",
            effect="Clipping would leave white or black images of a network this small.",
        ),
    ),
)
