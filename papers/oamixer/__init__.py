"""OAMixer: patches of one object mix more than patches of different ones."""

from common.declaration import Claim, Deviation, Model, Paper

PAPER = Paper(
    slug="oamixer",
    title="OAMixer: Object-aware Mixing Layer for Vision Transformers",
    authors=("Hyunwoo Kang", "Sangwoo Mo", "Jinwoo Shin"),
    venue="CVPRW 2022",
    year=2022,
    kind="architecture",
    arxiv="2212.06595",
    summary=(
        "Patches are mixed the more, the more alike the objects are that they show, at a learned rate, which makes "
        "vision transformers, MLP-Mixers and ConvMixers more accurate and less dependent on backgrounds."
    ),
    repository="https://github.com/alinlab/OAMixer",
    commit="5691a09",
    licence="Apache-2.0",
    bibtex="""@inproceedings{kang2022oamixer,
  title     = {OAMixer: Object-aware Mixing Layer for Vision Transformers},
  author    = {Kang, Hyunwoo and Mo, Sangwoo and Shin, Jinwoo},
  booktitle = {CVPR Workshops},
  year      = {2022}
}""",
    models=(
        Model(name="oamixer_deit_tiny", released="deit_t_mask"),
        Model(name="oamixer_deit_tiny_cosine", released="deit_t_mask_cosine"),
        Model(name="oamixer_deit_tiny_minus", released="deit_t_mask_minus"),
        Model(name="oamixer_deit_tiny_tokens", released="deit_t_mask_tok"),
        Model(name="oamixer_deit_small", released="deit_s_mask"),
        Model(name="oamixer_coatnet_tiny", released="deit_t_coat"),
        Model(name="oamixer_convit_tiny", released="deit_t_convit_mask"),
        Model(name="oamixer_convit_tiny_host", released="deit_t_convit"),
        Model(name="oamixer_mixer_s32", released="mixer_s32_mask"),
        Model(name="oamixer_mixer_s16", released="mixer_s16_mask"),
        Model(name="oamixer_mixer_b32", released="mixer_b32_mask"),
        Model(name="oamixer_mixer_b16", released="mixer_b16_mask"),
        Model(name="oamixer_convmixer_s32", released="convmixer_s32_mask"),
        Model(name="oamixer_convmixer_s32_host", released="convmixer_s32"),
        Model(name="oamixer_convmixer_s16", released="convmixer_s16_mask"),
        Model(name="oamixer_convmixer_s16_host", released="convmixer_s16"),
        Model(name="oamixer_convmixer_s16_unshared", released="convmixer_s16_noshare"),
    ),
    reused_models=(
        Model(name="deit_tiny_patch16_224", released="deit_t"),
        Model(name="mixer_s32_224", released="mixer_s32"),
        Model(name="mixer_s16_224", released="mixer_s16"),
    ),
    claims=(
        Claim(
            name="background_robustness",
            statement="With the mask a network depends less on backgrounds.",
            needs=("embedded",),
            primary="vit_mini.scenes+oamixer > vit_mini.scenes: mixed_rand_top1",
        ),
        Claim(
            name="accuracy",
            statement="With the mask a network is more accurate.",
            needs=("embedded",),
            primary="vit_mini.scenes+oamixer > vit_mini.scenes: top1",
        ),
        Claim(
            name="other_mixers",
            statement="So do networks that mix patches by an MLP or by convolutions.",
            needs=("embedded",),
            primary="mixer_mini.scenes+oamixer > mixer_mini.scenes: mixed_rand_top1",
        ),
        Claim(
            name="one_object",
            statement="Among patches of one object the mask changes nothing.",
            primary="one_object",
        ),
        Claim(
            name="separation",
            statement="At a large scale patches of different objects do not mix.",
            primary="separate",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
    ),
    deviations=(
        Deviation(
            name="linear_part",
            publication="could not be read",
            released="masks the product of an MLP's two matrices and adds what the MLP has beyond that product",
            ours="the same, written as the MLP less what the mask takes from the product",
            switch="none",
            effect="Equal but for rounding.",
        ),
        Deviation(
            name="coatnet",
            publication="could not be read",
            released="with relative attention, stores scales of masks and reads none",
            ours="as released, so that files load",
            switch="model oamixer_coatnet_tiny",
            effect="Labels have no effect on that network.",
        ),
        Deviation(
            name="negative_weights",
            publication="could not be read",
            released="allows scales up to 1 for 1 - kappa d; l1 distances go up to 2, so that weights can be below 0",
            ours="as released",
            switch="form, distance",
            effect="Shows only with form='minus' and distance='l1'.",
        ),
        Deviation(
            name="scale_range",
            publication="could not be read",
            released="puts the scale back into its range in every forward pass, in evaluation, too",
            ours="reads it within its range, and puts it back after each step of the optimizer",
            switch="none",
            effect="The same outputs and, from a scale within its range, the same gradients.",
        ),
        Deviation(
            name="labels_in_training",
            publication="could not be read",
            released="augments and mixes labels of patches with their images",
            ours="the command train reads no labels, and refuses networks with masks; the embedded experiment has them",
            switch="none",
            effect="Full-scale training of networks with masks is missing.",
        ),
    ),
)
