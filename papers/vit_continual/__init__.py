"""Continual learning with vision transformers: regularised attention, rehearsal buffers, frozen features."""

from common.declaration import Claim, Deviation, Model, Paper
from common.needs import own_folder

#: Those of the published table of frozen features.
_BACKBONES = (
    "vit_tiny_patch16_224",
    "vit_base_patch16_224",
    "deit_tiny_patch16_224",
    "deit_base_patch16_224",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet152",
    "efficientnet_b0",
)
_FLOWERS = own_folder("flowers-102", "Oxford Flowers 102 as class folders in train and test")
_CORE50 = own_folder("core50", "CORe50's 50 objects as class folders in train and test")
_TINY = own_folder("tiny-imagenet-200", "Tiny ImageNet as class folders in train and test")

PAPER = Paper(
    slug="vit-continual",
    title="Dissecting Continual Learning: a Structural and Data Analysis",
    authors=("Francesco Pelosin",),
    venue="PhD thesis, Ca' Foscari University of Venice",
    year=2023,
    kind="analysis",
    arxiv="2301.01033",
    summary=(
        "What keeps a network from forgetting: many coarse images in a rehearsal buffer rather than few good ones, "
        "asymmetric distillation of a vision transformer's attention, or frozen pre-trained features."
    ),
    repository="https://github.com/srvCodes/continual_learning_with_vit",
    commit="1021a5a",
    licence="MIT",
    builds_on=("simclr",),
    bibtex="""@phdthesis{pelosin2023dissecting,
  title  = {Dissecting Continual Learning: a Structural and Data Analysis},
  author = {Pelosin, Francesco},
  school = {Ca' Foscari University of Venice},
  year   = {2023}
}

@inproceedings{pelosin2022towards,
  title     = {Towards Exemplar-Free Continual Learning in Vision Transformers: An Account of Attention, Functional and
               Weight Regularization},
  author    = {Pelosin, Francesco and Jha, Saurav and Torsello, Andrea and Raducanu, Bogdan and van de Weijer, Joost},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops},
  year      = {2022}
}

@misc{pelosin2022simpler,
  title  = {Simpler is Better: off-the-shelf Continual Learning Through Pretrained Backbones},
  author = {Pelosin, Francesco},
  year   = {2022},
  note   = {Transformers for Vision workshop at CVPR, arXiv 2205.01586}
}""",
    models=(Model(name="early_conv_vit", released="early_conv_vit"),),
    reused_models=tuple(Model(name=name) for name in _BACKBONES),
    claims=(
        Claim(
            name="asymmetry",
            statement="Asymmetric distillation of attention learns new tasks better than symmetric does.",
            needs=("embedded",),
            primary="early_conv_vit_mini.attention_asymmetric > early_conv_vit_mini.attention: new_task_top1",
        ),
        Claim(
            name="regularisation",
            statement="Regularising attention or what it gives makes a network forget less than fine-tuning it.",
            needs=("embedded",),
            primary="early_conv_vit_mini.functional > early_conv_vit_mini: forgetting",
        ),
        Claim(
            name="losses",
            statement="Asymmetric distillation is one half of the symmetric distance.",
            primary="halves",
        ),
        Claim(
            name="rehearsal",
            statement="In a buffer of so many bytes, many coarse images are worth more than few good ones.",
            needs=("embedded",),
            primary="7px > 28px: rehearsal_top1",
        ),
        Claim(
            name="frozen_features",
            statement="Pre-trained features and class means, with nothing trained, beat learning task by task.",
            needs=("embedded",),
            primary="resnet_mini.simclr > early_conv_vit_mini.lwf: average_top1",
        ),
        Claim(
            name="order",
            statement="Class means of frozen features are the same in whatever tasks the classes come.",
            primary="same_means",
        ),
        *(
            Claim(
                name=f"prototypes_{dataset.replace('-', '_')}",
                statement=f"Accuracy of class means of frozen features on {title}.",
                needs=(dataset, "checkpoint"),
                settles=((dataset, "top1"), (dataset, "prototype_time")),
                measured_by=f"papers.vit_continual.prototypes:prototypes_{dataset.replace('-', '_')}",
            )
            for dataset, title in (
                ("cifar-10", "CIFAR-10"),
                ("cifar-100", "CIFAR-100"),
                (_FLOWERS, "Oxford Flowers 102"),
                (_CORE50, "CORe50"),
                (_TINY, "Tiny ImageNet"),
            )
        ),
    ),
    deviations=(
        Deviation(
            name="asymmetric_loss",
            publication="an asymmetric form of pooled distillation; the sources at hand do not print it",
            released=(
                "of attention, unless told --after-norm (which its README does not do), the difference is itself "
                "brought to norm 1: a constant, whose gradient is zero; of mixed values, vectors are"
            ),
            ours="both vectors are brought to norm 1, and then what the old one has more of counts",
            switch="argument before_norm of pooled_distillation",
            effect="losses",
        ),
        Deviation(
            name="permissive_relu",
            publication="nothing that we could read",
            released="--perm-relu is to count the other sign by half; it changes nothing, for the relu was in place",
            ours="left out",
            switch="none",
            effect="None: tests/papers/vit_continual has the recorded loss, which is the plain one.",
        ),
        Deviation(
            name="layers",
            publication="nothing that we could read",
            released="--pool-layers changes the divisor alone; all layers are summed",
            ours="the mean over all layers",
            switch="argument divisor of pooled_distillation",
            effect="A factor of the weight.",
        ),
        Deviation(
            name="fisher",
            publication="elastic weight consolidation as Kirkpatrick et al. have it",
            released=(
                "squares the mean gradient of a batch, by the model's own decisions over all heads, those of later "
                "tasks included where there are any, and halves the first importance"
            ),
            ours="as released, over the heads of the tasks so far",
            switch="argument labels of fisher_information; recipe key method.alpha",
            effect="A factor of the strength, for the release makes heads as tasks come.",
        ),
        Deviation(
            name="schedule",
            publication="nothing that we could read",
            released="divides the rate by 3 where the validation loss stalls, and goes back to the best weights",
            ours="a constant rate, and the last weights",
            switch="recipe key schedule",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="tokens",
            publication="nothing that we could read",
            released="the divergence of attention is written for 197 tokens",
            ours="for any number",
            switch="none",
            effect="None for 197.",
        ),
        Deviation(
            name="distance",
            publication="the closest prototype",
            released="Euclidean distance; a comment says cosine",
            ours="as released",
            switch="argument cosine of ClassMeans.predict",
            effect="Shows only with pre-trained weights.",
        ),
    ),
)
