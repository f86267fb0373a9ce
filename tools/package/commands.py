"""Our programs and their commands as manual and completion need them, taken from their own parsers.

argparse shows what it was told only in its private names: this is the only place that knows them.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import agent.cli.main
import controller.cli.main
import controller.ctl.main


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


@dataclass(frozen=True, slots=True)
class Program:
    """A program, and how to get its parser with the arguments of one command filled in."""

    name: str
    package: str
    short: str
    build: Callable[[str | None], argparse.ArgumentParser]

    @property
    def parser(self) -> argparse.ArgumentParser:
        """Its own, without those of any command."""
        return self.build(None)

    def commands(self) -> tuple[Command, ...]:
        """Every command, in the order of --help."""
        named = _described("", "", self.parser).actions
        return tuple(_described(one.name, one.summary, _sub(self.build(one.name))[one.name]) for one in named)


AGENT = Program(
    "sbc-agent", "sbc-edge-agent", "screen calls on the session border controller", agent.cli.main.build_parser
)
CONTROLLER = Program(
    "sbc-controller",
    "sbc-edge-controller",
    "the controller of a fleet of SBC edge agents",
    lambda _command: controller.cli.main.build_parser(),
)
CTL = Program(
    "sbcctl",
    "sbc-edge-controller",
    "ask the controller of a fleet of SBC edge agents",
    controller.ctl.main.build_parser,
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
