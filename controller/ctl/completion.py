"""`sbcctl completion`: a script that completes commands, options and their words in bash. Made from the parsers.

What depends on the fleet (names of agents) is not completed: that would ask the controller at each key.
"""

import argparse
from collections.abc import Iterator
from typing import Final

from controller.ctl.commands import finish
from controller.ctl.output import OK

EXAMPLES: Final = """\
source <(sbcctl completion bash)                           in this shell
sbcctl completion bash > ~/.local/share/bash-completion/completions/sbcctl     in every new one"""

PROGRAM: Final = "sbcctl"

SCRIPT: Final = """\
# bash completion of sbcctl: made by `sbcctl completion bash`
declare -gA _sbcctl_words=(
{words}
)
declare -gA _sbcctl_values=(
{values}
)
_sbcctl() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} path=sbcctl word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        [[ -n ${{_sbcctl_words[$path $word]+there}} ]] && path="$path $word"
    done
    local known=${{_sbcctl_values[$path $previous]-none}}
    if [[ $known == files ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    elif [[ $known == any ]]; then
        COMPREPLY=()
    elif [[ $known != none ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$known" -- "$current")
    else
        mapfile -t COMPREPLY < <(compgen -W "${{_sbcctl_words[$path]}}" -- "$current")
        if [[ ${{#COMPREPLY[@]}} == 0 && $current != -* ]]; then
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
        fi
    fi
}}
complete -F _sbcctl sbcctl
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("shell", choices=("bash",), help="whose completion")
    finish(parser, EXAMPLES, run, asks=False)


def run(args: argparse.Namespace) -> int:  # noqa: ARG001
    """Always returns 0."""
    print(script(), end="")
    return OK


def script() -> str:
    """Of all commands."""
    from controller.ctl.main import COMMANDS, build_parser  # noqa: PLC0415  (main imports this module)

    words: dict[str, list[str]] = {}
    values: dict[str, str] = {}
    for name in COMMANDS:
        for path, parser in _parsers(build_parser(name), PROGRAM):
            if path == PROGRAM or path.split(" ")[1] == name:  # the others have not been imported
                _describe(path, parser, words, values)
    rows = (f"    [{_quoted(path)}]={_quoted(' '.join(known))}" for path, known in words.items())
    return SCRIPT.format(
        words="\n".join(rows), values="\n".join(f"    [{_quoted(k)}]={_quoted(v)}" for k, v in values.items())
    )


def _parsers(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every parser beneath, by the words that lead there."""
    yield path, parser
    for action in parser._actions:  # noqa: SLF001  (argparse has no other way to ask)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for name, sub in action.choices.items():
                yield from _parsers(sub, f"{path} {name}")


def _describe(path: str, parser: argparse.ArgumentParser, words: dict[str, list[str]], values: dict[str, str]) -> None:
    known = words.setdefault(path, [])
    for action in parser._actions:  # noqa: SLF001
        found = list(map(str, action.choices or ())) if not action.option_strings else action.option_strings
        known += [word for word in found if word not in known]
        for option in action.option_strings if action.nargs != 0 else ():
            values[f"{path} {option}"] = _values(action)


def _values(action: argparse.Action) -> str:
    if action.choices:
        return " ".join(map(str, action.choices))
    return "files" if action.metavar in ("FILE", "PATH") else "any"


def _quoted(text: str) -> str:
    """For bash; there are no quotes in our words."""
    return f"'{text}'"
