"""Transformers in Vision: a survey made executable, its families of attention measured side by side."""

from common.declaration import Claim, Paper

PAPER = Paper(
    slug="transformers-survey",
    title="Transformers in Vision: A Survey",
    authors=(
        "Salman Khan",
        "Muzammal Naseer",
        "Munawar Hayat",
        "Syed Waqas Zamir",
        "Fahad Shahbaz Khan",
        "Mubarak Shah",
    ),
    venue="ACM Computing Surveys 54(10s)",
    year=2022,
    kind="survey",
    arxiv="2101.01169",
    summary=(
        "Transformers model long dependencies, process tokens in parallel and need few inductive biases; what "
        "attention costs with the number of tokens is where its families differ."
    ),
    bibtex="""@article{khan2022transformers,
  title   = {Transformers in Vision: A Survey},
  author  = {Khan, Salman and Naseer, Muzammal and Hayat, Munawar and Zamir, Syed Waqas and Khan, Fahad Shahbaz and
             Shah, Mubarak},
  journal = {ACM Computing Surveys},
  volume  = {54},
  number  = {10s},
  year    = {2022}
}""",
    builds_on=("cmt", "fan", "hire-mlp", "hornet", "raftmlp", "vars"),
    claims=(
        Claim(
            name="accuracy",
            statement="Families that cost less than global self-attention are as accurate in the same network.",
            needs=("embedded",),
            primary="pyramid_mini+windows = pyramid_mini+global: top1",
        ),
        Claim(
            name="robustness",
            statement="Global self-attention is more robust under corruption than attention within windows.",
            needs=("embedded",),
            primary="pyramid_mini+global > pyramid_mini+windows: corruption_top1",
        ),
        Claim(
            name="dynamic_weights",
            statement="Weights that are computed from the image are better than weights that are learned and fixed.",
            needs=("embedded",),
            primary="pyramid_mini+global > pyramid_mini+token_mlp: top1",
        ),
        Claim(
            name="complexity",
            statement="Multiply-adds of every family grow with the number of tokens as its definition says.",
            primary="exponents",
        ),
        Claim(
            name="time_and_memory",
            statement="Time and memory grow as multiply-adds do.",
            primary="global_memory",
        ),
        Claim(
            name="long_range",
            statement="Within one layer, attention connects places however far apart; windows and convolutions do not.",
            primary="reach",
        ),
    ),
)
