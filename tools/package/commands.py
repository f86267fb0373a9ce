"""The commands of `sbc-agent` as manual and completion need them, taken from its own parsers.

argparse shows what it was told only in its private names: this is the only place that knows them.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from agent.cli.main import COMMANDS, build_parser


@dataclass(frozen=True, slots=True)
class Command:
    """A command ("sbc-agent policy") or an action of one ("sbc-agent policy check")."""

    name: str
    summary: str
    parser: argparse.ArgumentParser
    actions: tuple["Command", ...] = ()

    @property
    def options(self) -> Iterator[argparse.Action]:
        """What begins with "-"."""
        return (a for a in _shown(self.parser) if a.option_strings)

    @property
    def operands(self) -> Iterator[argparse.Action]:
        """What does not, but for names of actions."""
        return (
            a for a in _shown(self.parser) if not a.option_strings and not isinstance(a, argparse._SubParsersAction)
        )


def commands() -> tuple[Command, ...]:
    """Every command, in the order of `sbc-agent --help`."""
    return tuple(
        _described(name, summary, _sub(build_parser(name))[name]) for name, (_module, summary) in COMMANDS.items()
    )


def _described(name: str, summary: str, parser: argparse.ArgumentParser) -> Command:
    summaries = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
    actions = (_described(one, summaries.get(one, ""), sub) for one, sub in _sub(parser).items())
    return Command(name, summary, parser, tuple(actions))


def _sub(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return cast("dict[str, argparse.ArgumentParser]", action.choices)
    return {}


def _shown(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (action for action in parser._actions if action.help is not argparse.SUPPRESS)
