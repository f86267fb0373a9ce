"""Completion for bash, from the commands' own parsers: commands, actions, options, and files for paths."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tools.package.commands import AGENT, Command

START: Final = """\
# bash completion for sbc-agent. Made from its own parsers; do not edit.
_sbc_agent() {
    local cur prev words cword
    _init_completion || return
    local command='' action='' i
    for ((i = 1; i < cword; i++)); do
        [[ ${words[i]} == -* ]] && continue
        if [[ -z $command ]]; then command=${words[i]}
        elif [[ -z $action ]]; then action=${words[i]}; fi
    done
    local options='' choices='' files=
"""

END: Final = """\
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
    elif [[ -n $choices ]]; then
        COMPREPLY=($(compgen -W "$choices" -- "$cur"))
    elif [[ -n $files ]]; then
        _filedir
    fi
} && complete -F _sbc_agent sbc-agent
"""


def script() -> str:
    """The whole script."""
    every = AGENT.commands()
    return START + "".join(_lines(every)) + END


def _lines(every: tuple[Command, ...]) -> Iterator[str]:
    yield "    case $command in\n"
    yield f"    '') options='--help --version' choices='{' '.join(c.name for c in every)}' ;;\n"
    for command in every:
        yield f"    {command.name})\n"
        if command.actions:
            yield "        case $action in\n"
            for action in command.actions:
                yield f"        {action.name}) {_assignments(action)} ;;\n"
            names = " ".join(a.name for a in command.actions)
            yield f"        *) {_assignments(command)} choices='{names}' ;;\n"
            yield "        esac\n"
        else:
            yield f"        {_assignments(command)}\n"
        yield "        ;;\n"
    yield "    esac\n"
    yield from _values(every)


def _values(every: tuple[Command, ...]) -> Iterator[str]:
    """After an option that takes a value: its words, a file, or nothing."""
    worded: dict[str, str] = {}
    paths: set[str] = set()
    others: set[str] = set()
    for command in _all(every):
        for option in command.options:
            if option.nargs == 0:
                continue
            for name in option.option_strings:
                if option.choices:
                    worded[name] = " ".join(map(str, option.choices))
                elif _is_path(option):
                    paths.add(name)
                else:
                    others.add(name)
    yield "    case $prev in\n"
    for name, words in sorted(worded.items()):
        yield f"    {name}) choices='{words}' files= ;;\n"
    if paths:
        yield f"    {'|'.join(sorted(paths))}) choices= files=1 ;;\n"
    if others := others - paths - set(worded):
        yield f"    {'|'.join(sorted(others))}) return ;;\n"
    yield "    esac\n"


def _all(some: tuple[Command, ...]) -> Iterator[Command]:
    for command in some:
        yield command
        yield from _all(command.actions)


def _assignments(command: Command) -> str:
    names = sorted(name for option in command.options for name in option.option_strings if name.startswith("--"))
    files = "1" if any(_is_path(operand) for operand in command.operands) else ""
    words = next((" ".join(map(str, o.choices)) for o in command.operands if o.choices), "")
    return f"options='{' '.join(names)}' files={files}" + (f" choices='{words}'" if words else "")


def _is_path(argument: argparse.Action) -> bool:
    named = str(argument.metavar or argument.dest).upper()
    return argument.type is Path or any(word in named for word in ("FILE", "PATH", "PCAP", "FOLDER", "DIRECTORY"))


if __name__ == "__main__":
    sys.stdout.write(script())
