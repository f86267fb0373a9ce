"""`sbcctl`: finds the subcommand and runs it. Knows the commands' names; imports a command only to run it."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from agent.model import ConfigError, ConfigErrors
from controller.ctl.output import BAD_INPUT, EXIT_HELP, USAGE_ERROR, complain

COMMANDS: dict[str, tuple[str, str]] = {
    "login": ("controller.ctl.login", "keep controller and login token, so that other commands need neither"),
    "certificate": (
        "controller.ctl.certificate",
        "trade the login token for a certificate, and ask with that from now on",
    ),
    "logout": ("controller.ctl.logout", "forget controller, token and certificate"),
    "agents": ("controller.ctl.agents", "list the agents: connected, on which policy, how busy, what is wrong"),
    "agent": ("controller.ctl.agent", "show one agent, follow its calls, explain a call, drain or revoke it"),
    "policy": ("controller.ctl.policy", "check, apply, compare, show or take back the policy of the fleet"),
    "rollout": ("controller.ctl.rollout", "watch, start or halt how a generation of the policy gets to the agents"),
    "upgrade": ("controller.ctl.upgrade", "give another version of the agent to the fleet, step by step"),
    "dno": ("controller.ctl.dno", "import, show or look up do-not-originate lists"),
    "lists": (
        "controller.ctl.lists",
        "import lists of every kind, trust lists and revocation lists too; show them, and where they are",
    ),
    "limits": ("controller.ctl.limits", "show, set or delete limits that hold for the whole fleet"),
    "tokens": ("controller.ctl.tokens", "make, list or revoke tokens by which agents enrol"),
    "operators": ("controller.ctl.operators", "make, list or revoke operators"),
    "records": ("controller.ctl.records", "query the call records of all agents"),
    "audit": ("controller.ctl.audit", "show what operators did, and verify that nothing of it was changed"),
    "completion": ("controller.ctl.completion", "print the completion of this command for bash"),
}

SUMMARY = "Asks the controller of a fleet of SBC edge agents, and tells it what to do."

EXAMPLES = """\
examples:
  sbcctl login controller.example.net:7444 --authority-sha256 3f9c... --token-file admin.token
  sbcctl tokens create --note sbc7
  sbcctl agents --watch
  sbcctl policy apply policy.toml --comment "stricter limits for east" && sbcctl rollout status --watch

"""


def _version() -> str:
    try:
        return version("sbc-edge-agent")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The whole parser; only `command`'s own module is imported, so that `--help` stays instant."""
    parser = argparse.ArgumentParser(
        prog="sbcctl",
        description=SUMMARY,
        epilog=EXAMPLES + EXIT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sbcctl {_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (module_name, help_text) in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            epilog=EXIT_HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            importlib.import_module(module_name).configure(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 the input is bad or the answer is no, 2 wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((a for a in arguments if not a.startswith("-")), None)
    parser = build_parser(command)
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help(sys.stderr)
        return USAGE_ERROR
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # below that, its library tells stderr what we say in words
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of hosts, lists and callers may hold what this terminal cannot show, or no text at all.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(args)
    except BrokenPipeError:  # `sbcctl ... | head`: the reader has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


def _run(args: argparse.Namespace) -> int:
    """The command, and in words what was wrong with it."""
    from controller.ctl.asking import ControlError  # noqa: PLC0415  (100 ms that `--help` need not pay)

    try:
        return int(args.run(args))
    except ControlError as error:
        for line in error.lines:
            complain(line)
        return BAD_INPUT
    except ConfigError as error:
        for one in error.errors if isinstance(error, ConfigErrors) else (error,):
            complain(str(one))
        return USAGE_ERROR if error.field.startswith("--") else BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
