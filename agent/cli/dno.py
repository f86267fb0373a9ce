"""`sbc-agent dno`: builds, inspects, looks up and compares do-not-originate lists.

The commands and their words; what they do is in agent.numbers. The arguments of each are beside its function in
agent.cli.dno_build, agent.cli.dno_show and agent.cli.dno_diff.
"""

import argparse

from agent.cli import dno_build, dno_diff, dno_show
from agent.cli.output import EXIT_HELP

_BUILD = """\
Builds a list file and puts it in the place of OUT, as a whole or not at all: agents that use it see the old one or
the new one. Every row of every input must be right, or nothing is written.

CSV files name their columns in the first row: number (or prefix; or npa, nxx, x; or first and last), category (1
subscriber-request, 2 invalid, 3 unallocated, 4 unused), source, asserted_by, verified_at, expires_at. A last line
"# rows: N" states how many rows there must be."""

_BUILD_EXAMPLES = """\
examples:
  sbc-agent dno build dno.list --csv registry.csv --csv own.csv
  sbc-agent dno build dno.list --csv registry.csv --npa-report npa_report.csv --expect-rows 2300000
  sbc-agent dno build dno.list --text inbound-only.txt --category 1 --source "customer letters" --asserted-by "Desk"

"""

_LOOKUP = """\
Looks numbers up as screening would: what is on the list, on whose word, until when. NUMBER is digits, or the SIP or
tel URI of a message."""

_LOOKUP_EXAMPLES = """\
examples:
  sbc-agent dno lookup dno.list 2015550123 'sip:+12015550124@gw.example;user=phone'
  sbc-agent dno lookup dno.list --at 2026-12-24 2015550123

exit codes: 0 every number was looked up, found or not; 1 the list cannot be used; 2 wrong usage"""

_DIFF = "Compares the numbers of two lists, and the assertions of the numbers that are in both; expired or not."
_DIFF_EXAMPLES = "exit codes: 0 the lists hold the same; 1 they differ, or one cannot be used; 2 wrong usage"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    commands = parser.add_subparsers(dest="dno_command", metavar="SUBCOMMAND", title="subcommands", required=True)
    build = _command(
        commands, "build", "make a list file of CSV, text and area code reports", _BUILD, _BUILD_EXAMPLES + EXIT_HELP
    )
    dno_build.configure(build)
    build.set_defaults(dno_run=dno_build.run)
    inspect = _command(commands, "inspect", "show what a list holds, and on whose word", "", EXIT_HELP)
    dno_show.configure_inspect(inspect)
    inspect.set_defaults(dno_run=dno_show.inspect)
    lookup = _command(commands, "lookup", "look numbers up", _LOOKUP, _LOOKUP_EXAMPLES)
    dno_show.configure_lookup(lookup)
    lookup.set_defaults(dno_run=dno_show.lookup)
    diff = _command(commands, "diff", "show what two lists do not have in common", _DIFF, _DIFF_EXAMPLES)
    dno_diff.configure(diff)
    diff.set_defaults(dno_run=dno_diff.run)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str, text: str, epilog: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=text or summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; returns its exit code."""
    return int(args.dno_run(args))
