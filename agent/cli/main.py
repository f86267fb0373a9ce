"""`sbc-agent`: finds the subcommand and runs it. Knows the commands' names; imports a command only to run it."""

import argparse
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from agent.cli.output import EXIT_HELP, USAGE_ERROR

COMMANDS: dict[str, tuple[str, str]] = {
    "setup": ("agent.cli.setup", "write the first configuration of this host, from what is found on it"),
    "doctor": ("agent.cli.doctor", "say whether this host has what the agent needs, and what to do about it"),
    "run": ("agent.cli.run", "run the agent in the foreground, as its service does"),
    "status": ("agent.cli.status", "show how the running agent is, and what it has decided"),
    "top": ("agent.cli.top", "show live what the running agent is deciding"),
    "drain": ("agent.cli.drain", "let the running agent finish what it has and end"),
    "enroll": ("agent.cli.enroll", "join the fleet of a controller, with a token of its operator"),
    "upgrade": ("agent.cli.upgrade", "put another version in force on this host, and the one before back if it fails"),
    "downgrade": ("agent.cli.downgrade", "put the version before this one back"),
    "records": ("agent.cli.records", "show or export the records of calls that the agent keeps on disk"),
    "explain": ("agent.cli.explain", "show what the agent knew of one call and why it decided so"),
    "replay": ("agent.cli.replay", "screen the calls of a capture file and show what would be refused"),
    "capture": ("agent.cli.capture", "look at the SIP of a live interface: calls, trunks, Identity on its way"),
    "parse": ("agent.cli.parse", "read one SIP message and show it as JSON, or say where it is wrong"),
    "policy": ("agent.cli.policy", "check, show or start a policy file"),
    "dno": ("agent.cli.dno", "build, inspect, look up or compare do-not-originate lists"),
    "identity": ("agent.cli.identity", "inspect, verify or make caller-ID signatures (STIR/SHAKEN)"),
    "kernel": ("agent.cli.kernel", "show, plan, install or remove what cuts off floods in the kernel"),
    "number": ("agent.cli.number", "show how a number is read, and why"),
}

SUMMARY = "Screens calls on the session border controller: what may pass, what is refused, by which rule and why."


def _version() -> str:
    try:
        return version("sbc-edge-agent")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The whole parser; only `command`'s own module is imported, so that `--help` stays instant."""
    parser = argparse.ArgumentParser(
        prog="sbc-agent", description=SUMMARY, epilog=EXIT_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"sbc-agent {_version()}")
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
            module = importlib.import_module(module_name)
            module.configure(sub)
            sub.set_defaults(run=module.run)
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
    # What the X.509 library warns of stands in certificates of strangers, and agent.identity judges them itself.
    warnings.filterwarnings("ignore", module=r"agent\.identity\.")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # below that, its library tells stderr what we say in words
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files, lists and callers may hold what this terminal cannot show, or no text at all.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return int(args.run(args))
    except BrokenPipeError:  # `sbc-agent ... | head`: the reader has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
