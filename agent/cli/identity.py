"""`sbc-agent identity`: looks at, verifies and makes what authenticates a caller's number (STIR/SHAKEN).

The commands and their words; each is a module with `add`, which declares it and says what runs it.
"""

import argparse
import importlib
import importlib.util
from typing import Final

COMMANDS: Final = (
    "agent.cli.identity_inspect",
    "agent.cli.identity_verify",
    "agent.cli.identity_sign",
    "agent.cli.identity_certificate",
    "agent.cli.identity_pki",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    commands = parser.add_subparsers(dest="identity_command", metavar="SUBCOMMAND", title="subcommands", required=True)
    for name in COMMANDS:
        if importlib.util.find_spec(name):
            importlib.import_module(name).add(commands)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; returns its exit code."""
    return int(args.identity_run(args))
