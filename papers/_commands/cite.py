"""``./reproduce.sh cite SLUG``: BibTeX of the paper and of resight."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

RESIGHT = """@software{resight,
  title   = {resight: reference reproductions of vision papers on attention and robustness},
  author  = {{The resight authors}},
  version = {0.1.0},
  year    = {2026},
  license = {MIT}
}"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the paper."""
    parser.add_argument("paper", metavar="SLUG", nargs="?", help="paper to cite (default: resight alone)")


def run(args: Namespace) -> int:
    """Print the entries."""
    import papers

    if args.paper is not None:
        print(papers.find(args.paper).bibtex.strip(), end="\n\n")
    print(RESIGHT)
    return 0
