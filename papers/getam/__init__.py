"""GETAM: segmentation from image-level labels, by gradient-weighted attention maps of a vision transformer."""

from common.declaration import Claim, Deviation, Model, Paper
from common.needs import own_folder

_PASCAL_VOC = own_folder("pascal-voc", "PASCAL VOC 2012 with JPEGImages, SegmentationClass and ImageSets")

PAPER = Paper(
    slug="getam",
    title=(
        "GETAM: Gradient-weighted Element-wise Transformer Attention Map for Weakly-supervised Semantic segmentation"
    ),
    authors=("Weixuan Sun", "Jing Zhang", "Zheyuan Liu", "Yiran Zhong", "Nick Barnes"),
    venue="arXiv",
    year=2021,
    kind="weak supervision",
    arxiv="2112.02841",
    summary=(
        "Attention of a vision transformer, weighted element by element by the squared gradient of a class, gives maps "
        "from which a segmentation network is trained in the same run, without masks."
    ),
    repository="https://github.com/weixuansun/GETAM",
    commit="766dc62",
    licence="none stated",
    bibtex="""@article{sun2021getam,
  title   = {GETAM: Gradient-weighted Element-wise Transformer Attention Map for Weakly-supervised Semantic
             segmentation},
  author  = {Sun, Weixuan and Zhang, Jing and Liu, Zheyuan and Zhong, Yiran and Barnes, Nick},
  journal = {arXiv preprint arXiv:2112.02841},
  year    = {2021}
}""",
    models=(
        Model(name="getam_vit_hybrid", released="vitb_hybrid"),
        Model(name="getam_vit", released="vitb"),
        Model(name="getam_deit", released="deit"),
        Model(name="getam_deit_distilled", released="deit_distilled"),
    ),
    claims=(
        Claim(
            name="activation",
            statement="GETAM's maps segment better than other readings of the same classifier.",
            needs=("embedded",),
            primary="getam_mini.classifier.getam > getam_mini.classifier.cam: map_miou",
        ),
        Claim(
            name="completion",
            statement="Trained with completed pseudo labels, a network segments better than with plain ones.",
            needs=("embedded",),
            primary="getam_mini > getam_mini.uncompleted: miou",
        ),
        Claim(
            name="elementwise",
            statement="Maps weight attention by the squared gradient, for all images in one pass and beside training.",
            primary="squared",
        ),
        Claim(
            name="pascal_voc",
            statement="Mean IoU on PASCAL VOC 2012's validation set.",
            needs=(_PASCAL_VOC, "checkpoint"),
            settles=(("pascal-voc-2012-val", "miou"),),
        ),
    ),
    deviations=(
        Deviation(
            name="saliency_loss",
            publication="saliency teaches the network what is background",
            released=(
                "the map is overwritten by then: background is asked for everywhere but where completion acted "
                "(train_from_init.py:214, myTool.py:105)"
            ),
            ours="background where nothing is salient and completion did not act",
            switch='method.saliency="released"',
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="conflicts",
            publication="pixels that two classes claim with confidence are left open",
            released="the first of the classes takes them (myTool.py:95-110)",
            ours="as released",
            switch="none",
            effect="Shows only where the strongest pixels of several classes coincide.",
        ),
        Deviation(
            name="opening",
            publication="nothing that we could read",
            released="objects are opened by a square of 10 pixels, which OpenCV's anchor moves by one (myTool.py:113)",
            ours="as released",
            switch="method.opening",
            effect="At most a pixel at the border of objects.",
        ),
        Deviation(
            name="optimizer",
            publication="nothing that we could read",
            released="the weight decay of 5e-4 becomes momentum, and nothing is decayed (tool/torchutils.py:13)",
            ours="as released",
            switch="recipe keys momentum and weight_decay",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="dense_energy",
            publication="a dense CRF loss",
            released="filters on a permutohedral lattice, in C++",
            ours="sums over all pairs of pixels, exactly",
            switch="none",
            effect="The lattice is an approximation; it was not at hand for a comparison.",
        ),
        Deviation(
            name="standardised_convolutions",
            publication="a hybrid of ResNet-50 and ViT-B",
            released="adds 1e-5 to the deviation of a kernel's weights; timm now adds 1e-8 to its square",
            ours="as released",
            switch="none",
            effect="Logits of the hybrid would differ by 1e-4 of the largest.",
        ),
        Deviation(
            name="evaluation",
            publication="not told whether by a dense CRF",
            released="means logits over three squares, at the picture's own size, and applies a CRF as well",
            ours="compares on squares of 480 pixels, without a CRF",
            switch="none",
            effect="Needs released weights.",
        ),
        Deviation(
            name="salience_in_scenes",
            publication="maps of a salient object detector",
            released="files made by others",
            ours="on embedded data the garment of most pixels, exactly; the other one is overlooked",
            switch="the supervision of papers.getam.training.SingleStage",
            effect="completion",
        ),
    ),
)
