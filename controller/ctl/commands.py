"""How a command is declared: its words, its examples, and the options that all commands have."""

import argparse
from collections.abc import Callable
from typing import Any, Final

from controller.ctl.output import EXIT_HELP
from controller.ctl.profile import add_options

Commands = Any  # argparse's action of subparsers, which has no public name
Run = Callable[[argparse.Namespace], int]

JSON: Final = "print JSON"
WATCH: Final = "show it as it changes, until interrupted; with --json, one object to a line"


def several(parser: argparse.ArgumentParser) -> Commands:
    """For a command that has commands of its own."""
    return parser.add_subparsers(dest="action", metavar="COMMAND", required=True, title="commands")


def command(commands: Commands, name: str, words: str, examples: str, run: Run) -> argparse.ArgumentParser:
    """One of them. `words` without a full stop, `examples` one to a line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=words, description=f"{words[0].upper()}{words[1:]}.", formatter_class=_Formatter
    )
    return finish(parser, examples, run)


def finish(parser: argparse.ArgumentParser, examples: str, run: Run, *, asks: bool = True) -> argparse.ArgumentParser:
    """Its epilog, what runs, and whom to ask."""
    rows = "".join(f"  {line}\n" for line in examples.splitlines())
    parser.epilog = f"examples:\n{rows}\n{EXIT_HELP}"
    parser.formatter_class = _Formatter
    parser.set_defaults(run=run)
    if asks:
        parser.add_argument("--json", action="store_true", help=JSON)
        add_options(parser)
    return parser


def add_watch(parser: argparse.ArgumentParser) -> None:
    """--watch."""
    parser.add_argument("-w", "--watch", action="store_true", help=WATCH)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide as other commands of ours, whatever the terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)
