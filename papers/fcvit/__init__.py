"""FCViT: convolutions, and one context of the whole image that every position takes by similarity."""

from common.declaration import Claim, Deviation, Model, Paper
from common.downstream import CLAIMS as DOWNSTREAM
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="fcvit",
    title="A Close Look at Spatial Modeling: From Attention to Convolution",
    authors=("Xu Ma", "Huan Wang", "Can Qin", "Kunpeng Li", "Xingchen Zhao", "Jie Fu", "Yun Fu"),
    venue="arXiv 2022",
    year=2022,
    kind="architecture",
    arxiv="2212.12552",
    summary=(
        "Attention of deep vision transformers hardly depends on the query and rests on few places; convolutions with "
        "one context of the whole image, taken by similarity, do better."
    ),
    repository="https://github.com/ma-xu/FCViT",
    commit="77e5a9d",
    licence="Apache-2.0",
    bibtex="""@article{ma2022fcvit,
  title   = {A Close Look at Spatial Modeling: From Attention to Convolution},
  author  = {Ma, Xu and Wang, Huan and Qin, Can and Li, Kunpeng and Zhao, Xingchen and Fu, Jie and Fu, Yun},
  journal = {arXiv preprint arXiv:2212.12552},
  year    = {2022}
}""",
    models=tuple(Model(name=f"fcvit_{size}", released=f"fcvit_{size}") for size in ("tiny", "b12", "b24", "b48")),
    claims=(
        Claim(
            name="convolutions",
            statement="Convolutions with a global context are more accurate than a vision transformer.",
            needs=("embedded",),
            primary="fcvit_mini > vit_mini: top1",
        ),
        Claim(
            name="query_irrelevance",
            statement="With depth the attention of different queries becomes alike.",
            needs=("embedded",),
            primary="vit_mini.block_3 > vit_mini.block_1: query_similarity",
        ),
        Claim(
            name="sparse_attention",
            statement="Less than a fifth of the tokens hold 80 % of the attention in the last block.",
            needs=("embedded",),
            primary="vit_mini.block_3 > a_fifth_of_tokens: attention_tokens",
        ),
        Claim(
            name="global_context",
            statement="The global context makes the convolutions more accurate.",
            needs=("embedded",),
            primary="fcvit_mini > fcvit_mini.no_context: top1",
        ),
        Claim(
            name="one_context",
            statement="The context is one for all positions, which differ in how much of it they take.",
            primary="one_direction",
        ),
        Claim(
            name="size",
            statement="Parameters of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        *FULL_SCALE,
        Claim(
            name="attention_of_checkpoint",
            statement="How alike the attention of queries is, and on how few tokens it rests, by block, on ImageNet.",
            needs=("imagenet", "checkpoint"),
        ),
        *DOWNSTREAM,
    ),
    deviations=(
        Deviation(
            name="standardised_similarity",
            publication="integrates the context by the similarity of a token with it",
            released="standardises similarities over all heads and positions of an image together (unbiased, + 1e-5)",
            ours="as released",
            switch="none",
            effect="Fixed by the released weights.",
        ),
        Deviation(
            name="size_of_models",
            publication="less than 14 M parameters (FCViT-S12); the README prints 4.6, 14, 25.7 and 49.1 M",
            released="has 4.78, 14.70, 26.96 and 51.48 M",
            ours="as released",
            switch="none",
            effect="size",
        ),
        Deviation(
            name="names",
            publication="calls the smallest of the larger models FCViT-S12",
            released="calls it FCViT-B12 (fcvit_b12)",
            ours="as released",
            switch="none",
            effect="None: a name.",
        ),
        Deviation(
            name="precision_of_detectors",
            publication="the abstract does not say",
            released="trains Mask R-CNN in float16 (use_fp16, by apex)",
            ours="float32",
            switch="optim_wrapper of the config",
            effect="Shows only in full-scale training.",
        ),
    ),
)
