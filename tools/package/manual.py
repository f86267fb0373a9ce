"""Manual pages: of every command from its own --help, of every configuration from the file that explains its keys.

Knows roff and the habits of our help texts: an epilog is made of blocks that begin with "examples:" and the like.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tools.package.commands import AGENT, CONTROLLER, CTL, Command, Program

WIDTH: Final = "78"
"""Columns that argparse takes for usage lines; otherwise the terminal of whoever builds would show in the page."""

_HEADING: Final = re.compile(r"^([a-z][a-z ]*):(?: (.*))?$")


@dataclass(frozen=True, slots=True)
class Release:
    """What stands at the top and the bottom of each page."""

    version: str
    date: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration file that explains itself: where it lies, and whose it is."""

    program: Program
    source: Path
    installed: str
    shared: str


CONFIGURATIONS: Final = (
    Configuration(
        AGENT,
        Path("packaging/agent.toml"),
        "/etc/sbc-edge-agent/agent.toml",
        "/usr/share/sbc-edge-agent/agent.toml",
    ),
    Configuration(
        CONTROLLER,
        Path("packaging/controller.toml"),
        "/etc/sbc-edge-controller/controller.toml",
        "/usr/share/sbc-edge-controller/controller.toml",
    ),
)


def page(program: Program, command: Command, release: Release) -> str:
    """The page of a command, with its actions."""
    name = f"{program.name}-{command.name}"
    return "\n".join(
        [
            _title(name, "1", release),
            _section("NAME"),
            f"{roff(name)} \\- {roff(command.summary)}",
            _section("SYNOPSIS"),
            *_usage(command),
            _section("DESCRIPTION"),
            roff(" ".join((command.parser.description or command.summary).split())),
            *_arguments(command, _section),
            *(line for action in command.actions for line in _action(command, action)),
            *_epilog(command.parser.epilog or ""),
            *_see((program.name, "1"), (program.package, "8"), (f"{program.package}.toml", "5")),
        ]
    )


def overview(program: Program, release: Release) -> str:
    """sbc-agent(1): which commands there are."""
    name = roff(program.name)
    lines = [
        _title(program.name, "1", release),
        _section("NAME"),
        f"{name} \\- {roff(program.short)}",
        _section("SYNOPSIS"),
        f"\\fB{name}\\fR \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]",
        _section("DESCRIPTION"),
        roff(" ".join((program.parser.description or program.short).split())),
        _section("COMMANDS"),
    ]
    for command in program.commands():
        lines += [".TP", f"\\fB{name}\\-{roff(command.name)}\\fR(1)", roff(command.summary)]
    lines += _epilog(program.parser.epilog or "")
    lines += _see((program.package, "8"), (f"{program.package}.toml", "5"))
    return "\n".join(lines)


def configuration_page(one: Configuration, text: str, release: Release) -> str:
    """sbc-edge-agent.toml(5): the commented file as it is."""
    name = f"{one.program.package}.toml"
    return "\n".join(
        [
            _title(name, "5", release),
            _section("NAME"),
            f"{roff(name)} \\- {roff(one.installed)}, the configuration of {roff(one.program.name)}",
            _section("DESCRIPTION"),
            f"This is the whole file with every key, its default and its reason. It lies in {roff(one.shared)}, too.",
            ".nf",
            *(roff(line) for line in text.splitlines()),
            ".fi",
            *_see((f"{one.program.name}-run", "1"), (one.program.package, "8")),
        ]
    )


def _see(*pages: tuple[str, str]) -> list[str]:
    return [_section("SEE ALSO"), ", ".join(f"\\fB{roff(name)}\\fR({section})" for name, section in pages), ""]


def roff(text: str) -> str:
    """Text that means itself: no escapes, no requests."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text


def _title(name: str, section: str, release: Release) -> str:
    return f'.TH "{roff(name.upper())}" "{section}" "{release.date}" "SBC edge {release.version}"'


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


def _pages(release: Release) -> Iterable[tuple[str, str]]:
    """(package/page, text) of all."""
    for program in (AGENT, CONTROLLER, CTL):
        yield f"{program.package}/{program.name}.1", overview(program, release)
        for command in program.commands():
            yield f"{program.package}/{program.name}-{command.name}.1", page(program, command, release)
    for one in CONFIGURATIONS:
        package = one.program.package
        yield f"{package}/{package}.toml.5", configuration_page(one, one.source.read_text(), release)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all pages to --out, in a folder for each package; in the root of the tree. Needs SOURCE_DATE_EPOCH."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args(arguments)
    os.environ["COLUMNS"] = WIDTH
    for name, text in _pages(Release(args.version, _date())):
        path = args.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
