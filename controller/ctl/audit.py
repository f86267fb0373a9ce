"""`sbcctl audit`: what operators and controllers did, in a chain of hashes."""

import argparse
from typing import Final

from controller.ctl.commands import command, several
from controller.ctl.output import BAD_INPUT, OK, at, complain, number, print_json, print_table

LIST: Final = """\
sbcctl audit list
sbcctl audit list --after 1200 --limit 1000 --json"""
VERIFY: Final = "sbcctl audit verify                          exit code 1 if an entry was changed or taken out"

LIMIT: Final = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """The commands and their arguments."""
    commands = several(parser)
    entries = command(commands, "list", "list the entries, oldest first", LIST, _list)
    entries.add_argument("--after", metavar="N", type=number, default=0, help="entries after this one")
    entries.add_argument("--limit", metavar="N", type=number, default=LIMIT, help=f"at most, 1000 (default {LIMIT})")
    command(commands, "verify", "walk the whole chain and say whether it is intact", VERIFY, _verify)


def _list(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415  (`--help` is quick)
    from controller.ctl.plain import plain  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        request = pb.ListAuditEntriesRequest(after=args.after, limit=args.limit)
        entries = fleet.audit.ListAuditEntries(request).entries
    if args.json:
        print_json([plain(entry) for entry in entries])
        return OK
    rows = [(str(e.sequence), at(e.at), e.actor, e.action, e.detail, e.hash.hex()[:12]) for e in entries]
    print_table("", ("entry", "at", "who", "what", "in detail", "hash"), rows)
    if len(entries) == args.limit:
        complain(f"there may be more: --after {entries[-1].sequence}")
    return OK


def _verify(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from controller.ctl.plain import plain  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        found = fleet.audit.VerifyAudit(pb.VerifyAuditRequest())
    if args.json:
        print_json(plain(found))
    elif found.intact:
        print(f"intact: {found.entries:,} entries")
    else:
        complain(f"NOT INTACT: entry {found.broken_at} is not what was written, or one before it is missing")
    return OK if found.intact else BAD_INPUT
