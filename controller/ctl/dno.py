"""`sbcctl dno`: do-not-originate lists of the fleet, and what they say of a number."""

import argparse
from typing import Final

from controller.ctl.commands import command, several
from controller.ctl.lists import add_import_arguments, run_import, run_show
from controller.ctl.output import OK, print_json, print_table

IMPORT: Final = """\
sbc-agent dno build industry.list --csv registry.csv && sbcctl dno import industry industry.list
sbcctl dno import inbound-only own.list --not-after 2026-12-31T00:00:00Z"""
SHOW: Final = "sbcctl dno show"
LOOKUP: Final = """\
sbcctl dno lookup 2015550123 'sip:+12015550124@gw.example;user=phone'
sbcctl dno lookup 2015550123 --json | jq '.[].hits'"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The commands and their arguments."""
    commands = several(parser)
    add = command(
        commands, "import", "make a file the next generation of a list, and bring it to agents", IMPORT, run_import
    )
    add.set_defaults(kind="dno")
    add_import_arguments(add)
    show = command(commands, "show", "show the do-not-originate lists", SHOW, run_show)
    show.set_defaults(kind="dno")
    lookup = command(commands, "lookup", "look numbers up in all of them, as they are now", LOOKUP, _lookup)
    lookup.add_argument("numbers", metavar="NUMBER", nargs="+", help="digits, or a SIP or tel URI")


def _lookup(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415  (`--help` is quick)
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    results = []
    with connected(args) as fleet:
        for number in args.numbers:
            response = fleet.lists.LookupNumber(pb.LookupNumberRequest(number=number))
            results.append({"input": number, "digits": response.digits, "hits": dict(sorted(response.hits.items()))})
    if args.json:
        print_json(results)
        return OK
    rows = []
    for result in results:
        hits = result["hits"] or {"": "on no list"}
        rows += [[result["input"], result["digits"], name, why] for name, why in hits.items()]
    print_table("", ("number", "read as", "list", "why"), rows)
    return OK
