"""What can be asked on the command line: one module a command, found through ``COMMANDS``.

A command's module has ``add_arguments(parser)`` and ``run(args)``, which returns the exit status; it is imported when
the command is called, and ``args.words`` is the command line as it was typed. What is asked of a paper (``vars``,
``vars train``) has the paper, too: ``add_arguments(parser, paper)`` and ``run(paper, args)``. ``help.txt`` lists
everything; ``reproduce.sh`` prints it without any Python.
"""

from __future__ import annotations

import importlib
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, nearest
from papers._commands.arguments import Parser

PROGRAM = "./reproduce.sh"
HELP = Path(__file__).with_name("help.txt")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        module: where its ``add_arguments`` and ``run`` are.
        summary: what it does, one sentence.
        models: whether it builds models, so that they have to be registered with timm first.
    """

    module: str
    summary: str
    models: bool = False


COMMANDS: dict[str, Command] = {
    "list": Command("papers._commands.list", "Show the papers, their kind, state and verdicts."),
    "cite": Command("papers._commands.cite", "Print the BibTeX of a paper and of resight."),
    "numbers": Command("papers._commands.numbers", "Show all printed and measured numbers in one table, best first."),
    "doctor": Command("papers._commands.doctor", "Show what is installed, which data is found, what claims need."),
    "robustness": Command(
        "common.robustness.command", "Measure a timm model on benchmark sets of robustness.", models=True
    ),
    "corrupt": Command("common.robustness.corruptions.folder", "Write a corrupted copy of an image folder."),
    "stylise": Command("papers.stylized_imagenet.folder", "Write a stylised copy of an image folder."),
    "deepaugment": Command("papers.imagenet_r.folder", "Write a copy of an image folder, distorted by DeepAugment."),
    "compare": Command(
        "papers._commands.compare", "Train small models of several papers alike and compare.", models=True
    ),
    "all": Command("papers._commands.all", "Measure the claims of every paper and write one index.", models=True),
    "compare-runs": Command(
        "results.compare_runs", "Show what moved between two runs, or between a reference and a run."
    ),
    "new": Command("papers._commands.new", "Write the skeleton of a new paper."),
    "bench": Command("papers._commands.bench", "Measure our speed against released implementations.", models=True),
    "readme": Command("papers._commands.readme", "Write the generated sections of the READMEs from data.", models=True),
    "reference": Command(
        "papers._commands.reference", "Measure papers with six seeds and keep the results as reference.", models=True
    ),
    "test": Command("papers._commands.test", "Run the linter, the format check, the type check and the tests."),
}

#: What can be asked of a paper; the empty word is the paper alone.
OF_PAPER: dict[str, Command] = {
    "": Command("papers._commands.reproduce", "Measure the claims of {title!r} ({venue}) and report.", models=True),
    "try": Command(
        "papers._commands.try_out", "Train one contender of {title!r} ({venue}) and show its curve.", models=True
    ),
    "downstream": Command(
        "papers._commands.downstream", "Detection and segmentation with the models of {title!r} ({venue}).", models=True
    ),
    "recipe": Command("papers._commands.recipe", "Print a training setting of {title!r} ({venue}), with its sources."),
    "train": Command("papers._commands.train", "Train a model of {title!r} ({venue}).", models=True),
}


def dispatch(argv: list[str]) -> int:
    """Run what ``argv`` asks for and return its exit status.

    Raises:
        UserError: there is no such command or paper, or its options are wrong.
    """
    if not argv or argv[0] in ("help", "-h", "--help"):
        print(HELP.read_text(encoding="utf-8"), end="")
        return 0
    command, paper, args = parse(argv)
    if command.models:
        import papers

        papers.register_models()
    return importlib.import_module(command.module).run(*paper, args)


def parse(argv: list[str]) -> tuple[Command, tuple[Any, ...], Namespace]:
    """The command that ``argv`` names, the paper of which it is asked, if any, and its arguments.

    Raises:
        UserError: there is no such command or paper, or its options are wrong.
    """
    word, *rest = argv
    if word in COMMANDS:
        return COMMANDS[word], (), _arguments(COMMANDS[word], word, rest)

    import papers

    known = papers.all_papers()
    if word not in known:
        hint = nearest(word, [*COMMANDS, *known])
        raise UserError(f"There is no paper or command {word!r}.{hint} {PROGRAM} list shows the papers.")
    paper = known[word]
    action = rest[0] if rest and not rest[0].startswith("-") else ""
    if action not in OF_PAPER:
        raise UserError(f"{word} has no {action!r}.{nearest(action, OF_PAPER)} {PROGRAM} --help shows what there is.")
    command = OF_PAPER[action]
    words = f"{word} {action}".rstrip()
    return command, (paper,), _arguments(command, words, rest[1:] if action else rest, paper)


def _arguments(command: Command, words: str, rest: list[str], *paper: Any) -> Namespace:
    summary = command.summary.format_map(vars(paper[0])) if paper else command.summary
    parser = Parser(prog=f"{PROGRAM} {words}", description=summary)
    importlib.import_module(command.module).add_arguments(parser, *paper)
    args = parser.parse(rest)
    args.words = [*words.split(), *rest]
    return args
