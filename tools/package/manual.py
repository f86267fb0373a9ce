"""Manual pages: one of every command from its own --help, and one of agent.toml from the file that explains its keys.

Knows roff and the habits of our help texts: an epilog is made of blocks that begin with "examples:" and the like.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agent.cli.main import SUMMARY
from tools.package.commands import Command, commands

WIDTH: Final = "78"
"""Columns that argparse takes for usage lines; otherwise the terminal of whoever builds would show in the page."""

_HEADING: Final = re.compile(r"^([a-z][a-z ]*):(?: (.*))?$")


def page(command: Command, date: str, version: str) -> str:
    """The page of a command, with its actions."""
    name = f"sbc-agent-{command.name}"
    return "\n".join(
        [
            _title(name, "1", date, version),
            _section("NAME"),
            f"{roff(name)} \\- {roff(command.summary)}",
            _section("SYNOPSIS"),
            *_usage(command),
            _section("DESCRIPTION"),
            roff(" ".join((command.parser.description or command.summary).split())),
            *_arguments(command, _section),
            *(line for action in command.actions for line in _action(command, action)),
            *_epilog(command.parser.epilog or ""),
            _section("SEE ALSO"),
            "\\fBsbc\\-agent\\fR(1), \\fBsbc\\-edge\\-agent\\fR(8), \\fBsbc\\-edge\\-agent.toml\\fR(5)",
            "",
        ]
    )


def overview(every: Sequence[Command], date: str, version: str) -> str:
    """sbc-agent(1): which commands there are."""
    lines = [
        _title("sbc-agent", "1", date, version),
        _section("NAME"),
        "sbc\\-agent \\- screen calls on the session border controller",
        _section("SYNOPSIS"),
        "\\fBsbc\\-agent\\fR \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]",
        _section("DESCRIPTION"),
        roff(SUMMARY),
        _section("COMMANDS"),
    ]
    for command in every:
        lines += [".TP", f"\\fBsbc\\-agent\\-{roff(command.name)}\\fR(1)", roff(command.summary)]
    lines += [
        _section("EXIT STATUS"),
        "0: done. 1: the input is bad, or the answer is no. 2: wrong usage. 130: interrupted. 78, of run: the",
        "configuration or the policy is wrong.",
        _section("SEE ALSO"),
        "\\fBsbc\\-edge\\-agent\\fR(8), \\fBsbc\\-edge\\-agent.toml\\fR(5)",
        "",
    ]
    return "\n".join(lines)


def configuration_page(text: str, date: str, version: str) -> str:
    """sbc-edge-agent.toml(5): the commented file as it is."""
    return "\n".join(
        [
            _title("sbc-edge-agent.toml", "5", date, version),
            _section("NAME"),
            "sbc\\-edge\\-agent.toml \\- /etc/sbc\\-edge\\-agent/agent.toml, the configuration of sbc\\-agent",
            _section("DESCRIPTION"),
            "This is the whole file with every key, its default and what it is for. It lies in",
            "/usr/share/sbc\\-edge\\-agent/agent.toml, too.",
            ".nf",
            *(roff(line) for line in text.splitlines()),
            ".fi",
            _section("SEE ALSO"),
            "\\fBsbc\\-agent\\-setup\\fR(1), \\fBsbc\\-agent\\-run\\fR(1), \\fBsbc\\-edge\\-agent\\fR(8)",
            "",
        ]
    )


def roff(text: str) -> str:
    """Text that means itself: no escapes, no requests."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text


def _title(name: str, section: str, date: str, version: str) -> str:
    return f'.TH "{roff(name.upper())}" "{section}" "{date}" "SBC edge agent {version}"'


def _section(name: str) -> str:
    return f'.SH "{name}"'


def _subsection(name: str) -> str:
    return f'.SS "{name}"'


def _usage(command: Command) -> Iterator[str]:
    yield ".nf"
    for one in command.actions or (command,):
        usage = one.parser.format_usage().removeprefix("usage: ").rstrip()
        yield from (roff(re.sub("^ {7}", "", line)) for line in usage.splitlines())
    yield ".fi"


def _action(command: Command, action: Command) -> Iterator[str]:
    yield _section(f"{command.name} {action.name}".upper())
    yield roff(" ".join((action.parser.description or action.summary).split()))
    yield from _arguments(action, _subsection)


def _arguments(command: Command, heading: Callable[[str], str]) -> Iterator[str]:
    for title, arguments in (("ARGUMENTS", list(command.operands)), ("OPTIONS", list(command.options))):
        if not arguments:
            continue
        yield heading(title)
        for argument in arguments:
            yield ".TP"
            yield _named(argument)
            yield roff(_help(argument))


def _named(argument: argparse.Action) -> str:
    value = _value(argument)
    if not argument.option_strings:
        return f"\\fI{roff(value)}\\fR"
    names = ", ".join(f"\\fB{roff(name)}\\fR" for name in argument.option_strings)
    return f"{names} \\fI{roff(value)}\\fR" if value else names


def _value(argument: argparse.Action) -> str:
    if argument.nargs == 0:
        return ""
    if argument.metavar:
        return argument.metavar if isinstance(argument.metavar, str) else " ".join(argument.metavar)
    if argument.choices:
        return "|".join(map(str, argument.choices))
    return argument.dest.upper()


def _help(argument: argparse.Action) -> str:
    values = {name: value for name, value in vars(argument).items() if value is not argparse.SUPPRESS}
    return " ".join(((argument.help or "") % values).split())


def _epilog(text: str) -> Iterator[str]:
    """The blocks of an epilog as sections; within them lines stay lines."""
    is_open = False
    for line in text.splitlines():
        heading = _HEADING.match(line)
        if heading:
            if is_open:
                yield ".fi"
            yield _section({"exit codes": "EXIT STATUS"}.get(heading[1], heading[1].upper()))
            yield ".nf"
            is_open = True
            if heading[2]:
                yield roff(heading[2])
        elif is_open:
            yield roff(line.removeprefix("  "))
        elif line.strip():
            yield roff(line.strip())
    if is_open:
        yield ".fi"


def _date() -> str:
    """Of the release, never of the build."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d")


def _pages(version: str, configuration: Path) -> Iterable[tuple[str, str]]:
    date, every = _date(), commands()
    yield "sbc-agent.1", overview(every, date, version)
    for command in every:
        yield f"sbc-agent-{command.name}.1", page(command, date, version)
    yield "sbc-edge-agent.toml.5", configuration_page(configuration.read_text(), date, version)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all pages to --out. Needs SOURCE_DATE_EPOCH."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--configuration", type=Path, default=Path("packaging/agent.toml"))
    args = parser.parse_args(arguments)
    os.environ["COLUMNS"] = WIDTH
    args.out.mkdir(parents=True)
    for name, text in _pages(args.version, args.configuration):
        (args.out / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
