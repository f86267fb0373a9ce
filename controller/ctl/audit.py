"""`sbcctl audit`: what operators and controllers did, in a chain of hashes."""

import argparse
import re
from typing import TYPE_CHECKING, Final

from controller.ctl.commands import command, several
from controller.ctl.output import BAD_INPUT, OK, at, complain, number, print_json, print_table

if TYPE_CHECKING:
    from controller.ctl.asking import Fleet
    from sbcedge.fleet.v1 import fleet_pb2

LIST: Final = """\
sbcctl audit list
sbcctl audit list --after 1200 --limit 1000 --json"""
VERIFY: Final = """\
sbcctl audit verify                          exit code 1 if an entry was changed or taken out
sbcctl audit verify --quiet >> audit.heads   keep the head elsewhere: where the controller cannot write
sbcctl audit verify --head "$(tail -1 audit.heads)"
                                             exit code 1 if the log is not what it was then, and more"""

QUOTE: Final = 100

LIMIT: Final = 100
HEAD: Final = re.compile("[0-9]{1,18}:[0-9a-f]{64}", re.ASCII)


def configure(parser: argparse.ArgumentParser) -> None:
    """The commands and their arguments."""
    commands = several(parser)
    entries = command(commands, "list", "list the entries, oldest first", LIST, _list)
    entries.add_argument("--after", metavar="N", type=number, default=0, help="entries after this one")
    entries.add_argument("--limit", metavar="N", type=number, default=LIMIT, help=f"at most, 1000 (default {LIMIT})")
    verify = command(commands, "verify", "walk the whole chain and say whether it is intact", VERIFY, _verify)
    verify.add_argument(
        "--head", metavar="N:HASH", type=_head, help="that the log had before, as this command printed it then"
    )
    verify.add_argument("-q", "--quiet", action="store_true", help="print the head and nothing else")


def _head(text: str) -> tuple[int, bytes]:
    entry, _, digest = text.strip().partition(":")
    if not HEAD.fullmatch(text.strip()):
        raise argparse.ArgumentTypeError(f"{text[:QUOTE]!r} is no head: the number of an entry, a colon, 64 hex digits")
    return int(entry), bytes.fromhex(digest)


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
        kept = found.intact and args.head is not None and _differs(fleet, found, *args.head)
    head = f"{found.entries}:{found.head.hex()}"
    fault = kept or ""
    if not found.intact:
        fault = f"NOT INTACT: entry {found.broken_at} is not what was written, or one before it is missing"
    if args.json:
        print_json(plain(found) | {"head": head} | ({"fault": fault} if fault else {}))
    elif fault:
        complain(fault)
    else:
        print(head if args.quiet else f"intact: {found.entries:,} entries, head {head}")
    return BAD_INPUT if fault else OK


def _differs(fleet: "Fleet", found: "fleet_pb2.VerifyAuditResponse", entry: int, digest: bytes) -> str:
    """Why the log does not go on from this head; "" it does. Its chain is known to be intact."""
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    if entry > found.entries:
        return f"NOT THE SAME LOG: it has {found.entries:,} entries, and had {entry:,}"
    if entry == found.entries:
        now = found.head
    else:
        entries = (
            fleet.audit.ListAuditEntries(pb.ListAuditEntriesRequest(after=entry - 1, limit=1)).entries if entry else []
        )
        now = entries[0].hash if entries and entries[0].sequence == entry else digest if not entry else b""
    return "" if now == digest else f"NOT THE SAME LOG: entry {entry} has another hash than it had"
