"""`sbc-agent identity`: looks at, verifies and makes what authenticates a caller's number (STIR/SHAKEN).

The commands; each is a module whose `add` declares it and says what runs it.
"""

import argparse

from agent.cli import identity_certificate, identity_inspect, identity_pki, identity_sign, identity_verify


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    commands = parser.add_subparsers(dest="identity_command", metavar="SUBCOMMAND", title="subcommands", required=True)
    for module in (identity_inspect, identity_verify, identity_sign, identity_certificate, identity_pki):
        module.add(commands)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; returns its exit code."""
    return int(args.identity_run(args))
