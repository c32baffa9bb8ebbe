"""Algorithm unrolling: iterative algorithms as networks, whose layers are steps with learned weights."""

from common.declaration import Claim, Paper

PAPER = Paper(
    slug="unrolling",
    title="Algorithm Unrolling: Interpretable, Efficient Deep Learning for Signal and Image Processing",
    authors=("Vishal Monga", "Yuelong Li", "Yonina C. Eldar"),
    venue="IEEE Signal Processing Magazine 38(2)",
    year=2021,
    kind="survey",
    arxiv="1912.10557",
    summary=(
        "Surveys networks whose layers are the steps of an iterative algorithm, with LISTA as the running example: "
        "they can be interpreted, have few parameters and need far fewer steps than the algorithm."
    ),
    bibtex="""@article{monga2021algorithm,
  title   = {Algorithm Unrolling: Interpretable, Efficient Deep Learning for Signal and Image Processing},
  author  = {Monga, Vishal and Li, Yuelong and Eldar, Yonina C.},
  journal = {IEEE Signal Processing Magazine},
  volume  = {38},
  number  = {2},
  pages   = {18--44},
  year    = {2021}
}""",
    builds_on=("vars",),
    recipe_type="papers.unrolling.settings:Experiment",
    claims=(
        Claim(
            name="convergence",
            statement="ISTA converges as 1/k and FISTA as 1/k^2, to the solution of coordinate descent.",
            primary="bound_of_ista",
        ),
        Claim(
            name="analytic_weights",
            statement="ALISTA's weights, computed without data, are less coherent with the dictionary than itself.",
            primary="coherence",
        ),
        Claim(
            name="vars_is_unrolled",
            statement="The attention of VARS is an unrolled solver: its steps are steps of ISTA.",
            primary="vars_d",
        ),
        Claim(
            name="gaussian",
            statement="What four layers of TiLISTA reach on synthetic codes takes ISTA ten times as many steps.",
            primary="tilista_4_layers",
        ),
        Claim(
            name="patches",
            statement="What four layers of TiLISTA reach on image patches takes ISTA ten times as many steps.",
            needs=("embedded",),
            primary="tilista_4_layers",
        ),
        Claim(
            name="speed",
            statement="At equal error a learned network, TiLISTA, is faster than FISTA.",
            needs=("embedded",),
            primary="gaussian_tilista",
        ),
    ),
)
