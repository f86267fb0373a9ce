"""`sbcctl logout`: forgets what login has kept. The token itself stays good: an administrator revokes it."""

import argparse
import os
from typing import Final

from agent.model import ConfigError
from controller.ctl.commands import finish
from controller.ctl.output import BAD_INPUT, OK, complain
from controller.ctl.profile import ENVIRONMENT, forget, profile_of

EXAMPLES: Final = """\
sbcctl logout
sbcctl logout --profile lab"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("--profile", metavar="NAME", help=f"another login (or {ENVIRONMENT['profile']})")
    finish(parser, EXAMPLES, run, asks=False)


def run(args: argparse.Namespace) -> int:
    """Returns 0 when it is gone, 1 when there was none."""
    folder = profile_of(args, os.environ)
    try:
        there = forget(folder)
    except OSError as error:
        raise ConfigError(str(error.filename or folder), f"cannot be removed: {error.strerror}") from None
    if not there:
        complain(f"nobody has logged in: {folder} is not there")
        return BAD_INPUT
    print(f"{folder} is gone")
    return OK
