"""VARS: Visual Attention Emerges from Recurrent Sparse Reconstruction."""

from common.declaration import Claim, Deviation, Model, Paper
from common.downstream import CLAIMS as DOWNSTREAM
from common.downstream import EMBEDDED as EMBEDDED_DOWNSTREAM
from common.robustness.full_scale import CLAIMS as FULL_SCALE

_RVT = tuple(f"rvt_{size}{star}" for size in ("tiny", "small", "base") for star in ("", "_plus"))
_DEIT = tuple(f"deit_{size}" for size in ("tiny", "small", "base"))
_FAN = tuple(f"fan_{size}" for size in ("tiny", "small", "base", "large"))
_RELEASED_NAME = {"performer": "perf", "vars_s": "vars_s", "vars_d": "vars_d", "vars_sd": "vars_sd"}


def _released(attention: str, host: str) -> str:
    """The released code combines VARS with the RVT hosts without star only."""
    return f"{host}_{_RELEASED_NAME[attention]}" if host in _RVT and not host.endswith("_plus") else ""


PAPER = Paper(
    slug="vars",
    title="Visual Attention Emerges from Recurrent Sparse Reconstruction",
    authors=("Baifeng Shi", "Yale Song", "Neel Joshi", "Trevor Darrell", "Xin Wang"),
    venue="ICML 2022",
    year=2022,
    kind="architecture",
    arxiv="2204.10962",
    summary=(
        "Replaces self-attention by a recurrent attractor network that solves a sparse reconstruction of its input; "
        "self-attention is its special case of one step without sparsity; vision transformers become more robust."
    ),
    repository="https://github.com/bfshi/VARS",
    commit="651eb51",
    licence="none stated",
    bibtex="""@inproceedings{shi2022visual,
  title     = {Visual Attention Emerges from Recurrent Sparse Reconstruction},
  author    = {Shi, Baifeng and Song, Yale and Joshi, Neel and Darrell, Trevor and Wang, Xin},
  booktitle = {International Conference on Machine Learning},
  year      = {2022}
}""",
    builds_on=("rvt", "fan"),
    models=(
        *(
            Model(name=f"{attention}_{host}", released=_released(attention, host))
            for attention in _RELEASED_NAME
            for host in (*_RVT, *_DEIT, *_FAN)
        ),
    ),
    reused_models=(
        *(Model(name=host, released=f"{host}_self_att") for host in _RVT),
        *(Model(name=f"{host}_patch16_224", released=f"{host}_patch16_224") for host in _DEIT),
    ),
    claims=(
        Claim(
            name="robustness",
            statement="At equal budget VARS is more robust to corruption than self-attention.",
            needs=("embedded",),
            primary="vars_sd_rvt_mini > rvt_mini: corruption_top1",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of the hosts are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="identity",
            statement="Self-attention is VARS with a single step and no sparsity.",
            primary="one_step",
        ),
        Claim(
            name="sparse_reconstruction",
            statement="The recurrent dynamics minimise a sparse reconstruction of the input.",
            primary="descent",
        ),
        Claim(
            name="attention_maps",
            statement="More attention of VARS than of self-attention falls on the object, also under corruption.",
            needs=("embedded",),
            primary="vars_sd_rvt_mini > rvt_mini: attention_on_object",
        ),
        Claim(
            name="cost",
            statement="VARS costs at most twice as much as self-attention.",
            primary="training_step_at_most_twice",
        ),
        Claim(
            name="shrinkage",
            statement="The released shrinkage (GELU) does not change accuracy.",
            needs=("embedded",),
            primary="vars_d_rvt_mini.released = vars_d_rvt_mini: top1",
        ),
        *FULL_SCALE,
        *EMBEDDED_DOWNSTREAM,
        *DOWNSTREAM,
    ),
    deviations=(
        Deviation(
            name="shrinkage",
            publication="soft threshold, sign(x) max(|x| - lambda, 0)",
            released="VARS-D and VARS-SD: sign(x) GELU(|x| - lambda); VARS-S: the soft threshold",
            ours="the soft threshold; loading released weights selects GELU, with which they were trained",
            switch='attention_args={"shrinkage": "soft" | "gelu"}',
            effect="shrinkage",
        ),
        Deviation(
            name="lipschitz",
            publication="nothing that we could read",
            released=(
                "VARS-S: the step is bounded by the largest eigenvalue of the real part of the Gram spectra, between "
                "half and all of their largest eigenvalue, so that steps are up to twice as long"
            ),
            ours="the released bound; the objective still falls",
            switch='attention_args={"lipschitz": "released" | "exact"}',
            effect="Descent with both bounds is tested; the difference is in the length of steps only.",
        ),
        Deviation(
            name="lipschitz_refresh",
            publication="nothing that we could read",
            released=(
                "VARS-S: the bound is refreshed before steps 0, 100, ... of every epoch with momentum 0.1 through "
                "model.module, which fails in training on a single device"
            ),
            ours="refreshed by the module after every 100th optimizer step of the run, on any number of devices",
            switch='attention_args={"refresh_every": 100, "momentum": 0.1}',
            effect="Refreshes fall on other steps where an epoch is no multiple of 100 steps.",
        ),
        Deviation(
            name="starred_hosts",
            publication="nothing that we could read",
            released="VARS and Performer attention cannot be constructed in the starred hosts",
            ours="the starred host without position-aware scaling, which multiplies scores that VARS never forms",
            switch="none",
            effect="There is nothing to compare with.",
        ),
        Deviation(
            name="attention_dropout",
            publication="nothing that we could read",
            released="VARS ignores the dropout of attention",
            ours="refused with a sentence",
            switch="none",
            effect="No released recipe uses it.",
        ),
    ),
)
