"""ReLICv2: contrast with an explicit invariance loss, over large, small and background-free views."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

#: Networks with released weights, as the release calls them.
_RELEASED = {
    "resnet50_relicv2": "ResNet-50 1x",
    "resnet50x2_relicv2": "ResNet-50 2x",
    "resnet50x4_relicv2": "ResNet-50 4x",
    "resnet101_relicv2": "ResNet-101",
    "resnet152_relicv2": "ResNet-152",
    "resnet200_relicv2": "ResNet-200",
    "resnet200x2_relicv2": "ResNet-200 2x",
}

PAPER = Paper(
    slug="relicv2",
    title=(
        "Pushing the limits of self-supervised ResNets: Can we outperform supervised learning without labels on "
        "ImageNet?"
    ),
    authors=(
        "Nenad Tomasev",
        "Ioana Bica",
        "Brian McWilliams",
        "Lars Buesing",
        "Razvan Pascanu",
        "Charles Blundell",
        "Jovana Mitrovic",
    ),
    venue="arXiv",
    year=2022,
    kind="self-supervision",
    arxiv="2201.05119",
    summary=(
        "Contrastive learning with an explicit invariance loss over large, small and background-free views gives "
        "ResNets whose linear accuracy exceeds that of supervised ones of the same size."
    ),
    repository="https://github.com/google-deepmind/relicv2",
    commit="106a93e",
    licence="Apache-2.0; other materials CC BY 4.0",
    builds_on=("simclr",),
    bibtex="""@article{tomasev2022pushing,
  title   = {Pushing the limits of self-supervised ResNets: Can we outperform supervised learning without labels on
             ImageNet?},
  author  = {Tomasev, Nenad and Bica, Ioana and McWilliams, Brian and Buesing, Lars and Pascanu, Razvan and
             Blundell, Charles and Mitrovic, Jovana},
  journal = {arXiv preprint arXiv:2201.05119},
  year    = {2022}
}""",
    models=tuple(Model(name=name, released=released) for name, released in _RELEASED.items()),
    claims=(
        Claim(
            name="supervised",
            statement="Features of ReLICv2 are better under a linear probe than a supervised network's of its size.",
            needs=("embedded",),
            primary="resnet_mini.canvas_relicv2 > resnet_mini.canvas_labels: linear_probe_top1",
        ),
        Claim(
            name="ingredients",
            statement="Features of ReLICv2 are better under a linear probe than SimCLR's.",
            needs=("embedded",),
            primary="resnet_mini.canvas_relicv2 > resnet_mini.canvas_simclr: linear_probe_top1",
        ),
        Claim(
            name="robustness",
            statement="Probes on features of ReLICv2 are better than SimCLR's when more is in the background.",
            needs=("embedded",),
            primary="resnet_mini.canvas_relicv2 > resnet_mini.canvas_simclr: cluttered_probe_top1",
        ),
        Claim(
            name="loss",
            statement="The loss is what it is defined as, and views without background keep the object alone.",
            primary="definition",
        ),
        Claim(
            name="size",
            statement="Encoders are of the printed sizes.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        *FULL_SCALE,
    ),
    deviations=(
        Deviation(
            name="invariance",
            publication="a Kullback-Leibler divergence between both views' distributions, with a stopped gradient",
            released="has no pre-training",
            ours="from the distribution of the view in the target network, which is taken as given",
            switch="none",
            effect="Which of the two directions is published could not be read.",
        ),
        Deviation(
            name="masks",
            publication="finds objects by a saliency network that learns without labels",
            released="has no masks",
            ours="a fourth channel of the data; exact on canvases, and no reader makes it from a folder of images",
            switch="recipe key method.mask_probability",
            effect="Shows only with masks of ImageNet.",
        ),
        Deviation(
            name="small_views",
            publication="small crops of the image",
            released="has no small views",
            ours="cut out of the large views, before those lose their background",
            switch="recipe keys method.smallest_share and method.largest_share",
            effect="Not measured; none on released weights.",
        ),
        Deviation(
            name="distortion",
            publication="not found in what we could read",
            released=(
                "blurs the first of two views always and the second seldom, which is solarised at times; saturation "
                "changes half as much as brightness and contrast"
            ),
            ours="SimCLR's distortion at strength 0.5 for all views, without solarisation",
            switch="recipe keys method.colour_strength and method.blur_probability",
            effect="Not measured; none on released weights.",
        ),
        Deviation(
            name="comparison_network",
            publication="a small network after the encoder",
            released="a perceptron with one hidden layer whose sizes are not stated (utils/networks.py)",
            ours="SimCLR's projection head of two layers",
            switch="none",
            effect="Not measured; none on released weights.",
        ),
        Deviation(
            name="printed_size",
            publication="does not say what is counted",
            released="prints no size",
            ours="the encoder without heads under the tag encoder, beside the parameters of the whole network",
            switch="none",
            effect="size",
        ),
        Deviation(
            name="resizing",
            publication="does not say how images are resized",
            released="TensorFlow's bicubic interpolation of a centre crop, which does not smooth before it shrinks",
            ours="Pillow's bicubic interpolation, which does, and then the crop",
            switch="none",
            effect="The claim imagenet measures it once released weights and images are there.",
        ),
    ),
)
