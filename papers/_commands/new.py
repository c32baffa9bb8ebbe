"""``./reproduce.sh new SLUG``: a correct skeleton of a paper, to be filled in."""

from __future__ import annotations

import keyword
import re
import subprocess
import sys
import textwrap
from argparse import ArgumentParser, Namespace
from datetime import date
from pathlib import Path
from string import Template

from common.arguments import whole_number
from common.errors import UserError, nearest
from common.files import write_atomic

PAPERS = Path(__file__).resolve().parents[1]
SKELETON = Path(__file__).with_name("skeleton")
#: The model on which a method is shown until its paper's are declared.
EXAMPLE = "deit_tiny_patch16_224"
_SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what is known of the paper."""
    parser.epilog = "Example: ./reproduce.sh new tap-adl --title 'Robustifying Token Attention' --year 2023"
    parser.add_argument("slug", metavar="SLUG", help="short name: lower-case letters, digits and hyphens")
    parser.add_argument("--title", help="(default: made from the slug)")
    parser.add_argument("--author", action="append", metavar="NAME", help="one author; repeat in the printed order")
    parser.add_argument("--venue", default="arXiv", help="(default: arXiv)")
    parser.add_argument("--year", type=whole_number(1900, 9999), default=date.today().year)
    parser.add_argument("--arxiv", default="", metavar="ID")
    parser.add_argument(
        "--kind",
        default="architecture",
        help="of its contribution, e.g. augmentation; an architecture gets a model.py, an analysis or survey an "
        "analysis.py, everything else a method.py (default: architecture)",
    )
    parser.add_argument(
        "--timm", nargs="+", default=[], metavar="NAME", help="its models, where timm has them: no model.py is written"
    )
    parser.add_argument("--repository", default="", metavar="URL", help="the released code")
    parser.add_argument("--commit", default="", help="of the released code, with which is compared")
    parser.add_argument("--licence", default="", help="of the released code; 'none stated' where it has none")


def run(args: Namespace) -> int:
    """Write the folder and say what comes next."""
    folder = PAPERS / args.slug.replace("-", "_")
    _check_slug(args.slug, folder)
    values = _values(args)
    kind = {"architecture": "model", "analysis": "analysis", "survey": "analysis"}.get(args.kind, "method")
    for part in ("every", "timm" if args.timm and kind == "model" else kind):
        for template in sorted((SKELETON / part).glob("*.template")):
            text = Template(template.read_text(encoding="utf-8")).substitute(values)
            write_atomic(folder / template.name.removesuffix(".template"), text)
    tests = PAPERS.parent / "tests" / "papers" / folder.name
    of_tests = Template((SKELETON / "tests" / f"{kind}.template").read_text(encoding="utf-8"))
    write_atomic(tests / f"test_{folder.name}.py", of_tests.substitute(values))
    _format(folder, tests)
    names = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_file()))
    print(f"Wrote {folder}: {names}; and tests in {tests}.")
    print(
        f"Fill them in, from __init__.py on; ./reproduce.sh {args.slug} measures, ./reproduce.sh readme writes the "
        f"tables, ./reproduce.sh test {args.slug} checks."
    )
    return 0


def _check_slug(slug: str, folder: Path) -> None:
    from papers._commands import COMMANDS

    if not _SLUG.fullmatch(slug):
        raise UserError(
            f"{slug!r} cannot be a slug; use lower-case letters, digits and single hyphens, a letter first."
        )
    if slug in COMMANDS or keyword.iskeyword(slug):
        raise UserError(f"{slug!r} is a command or a word of Python; choose another slug.")
    if folder.exists():
        raise UserError(f"{folder} is there already; choose another slug or remove it.")


def _values(args: Namespace) -> dict[str, object]:
    authors = args.author or ["First Author"]
    title = args.title or args.slug.replace("-", " ").capitalize()
    for text in (title, args.kind, args.venue, args.arxiv, args.repository, args.commit, args.licence, *authors):
        if re.search(r'["\\\n]', text):
            raise UserError(f"{text!r}: leave out double quotes, backslashes and line ends; mend it in the files.")
    if args.repository and not (args.commit and args.licence):
        raise UserError("--repository: give the commit that is compared with, and the licence, by --commit, --licence.")
    _check_timm(args.timm)
    name = args.slug.replace("-", "_")
    return {
        "slug": args.slug,
        "name": name,
        "title": title.rstrip("."),
        "authors": ", ".join(f'"{author}"' for author in authors),
        "bibtex_authors": textwrap.fill(" and ".join(authors), width=90, subsequent_indent=12 * " "),
        "venue": args.venue,
        "year": args.year,
        "arxiv": args.arxiv,
        "repository": args.repository,
        "commit": args.commit,
        "licence": args.licence,
        "timm_models": ", ".join(f'Model(name="{each}")' for each in args.timm or [EXAMPLE]),
        "kind": args.kind,
        "key": f"{re.sub(r'[^a-z]', '', authors[0].split()[-1].lower())}{args.year}{name.partition('_')[0]}",
    }


def _check_timm(names: list[str]) -> None:
    if not names:
        return
    from timm.models import is_model, list_models

    unknown = [name for name in names if not is_model(name)]
    if unknown:
        raise UserError(f"timm has no model {unknown[0]!r}.{nearest(unknown[0], list_models())}")


def _format(*folders: Path) -> None:
    """Set the line breaks that long titles and many authors need, where ruff is installed."""
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", *folders], capture_output=True, check=False)
