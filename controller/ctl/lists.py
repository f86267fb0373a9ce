"""`sbcctl lists`: lists that the controller hands to its agents, of every kind; what `sbcctl dno` stands on."""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.cli.output import progress
from agent.model import ConfigError
from controller.ctl.commands import add_watch, command, several
from controller.ctl.output import OK, ago, at, into_timestamp, moment, print_json, print_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sbcedge.fleet.v1 import fleet_pb2

KINDS: Final = ("dno", "trust-list", "crl")
CHUNK: Final = 256 << 10

IMPORT: Final = """\
sbcctl lists import trust-list us sti-pa.jws
sbcctl lists import crl us sti-pa.crl --not-after 2026-12-31T00:00:00Z"""
SHOW: Final = """\
sbcctl lists show
sbcctl lists show --json | jq '.fetches[] | select(.problem != "")'"""

STATUS: Final = """\
sbcctl lists status
sbcctl lists status --kind crl --watch
sbcctl lists status --json | jq '.[] | select(.generation != .latest)'"""

AT_AGENTS: Final = ("agent", "host", "list", "has", "shall have", "latest", "policy", "what is wrong")
COLUMNS: Final = ("kind", "list", "generation", "holds", "bytes", "imported", "by", "ends")


def configure(parser: argparse.ArgumentParser) -> None:
    """The commands and their arguments."""
    commands = several(parser)
    add = command(
        commands, "import", "make a file the next generation of a list, and bring it to agents", IMPORT, run_import
    )
    add.add_argument("kind", metavar="KIND", choices=KINDS, help=", ".join(KINDS))
    add_import_arguments(add)
    show = command(commands, "show", "show the lists, and how their scheduled fetches went", SHOW, run_show)
    show.set_defaults(kind="")
    status = command(
        commands, "status", "show which generation of each list every agent decides by", STATUS, run_status
    )
    status.add_argument("--kind", choices=KINDS, default="", help="of this kind only")
    status.add_argument("--name", metavar="NAME", default="", help="of this name only")
    add_watch(status)


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, FILE and when it ends."""
    parser.add_argument("name", metavar="NAME", help="name of the list, as policies have it")
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="the list, as `sbc-agent dno build` makes it, or as fetched"
    )
    parser.add_argument(
        "--not-after", metavar="T", type=moment, help="when it ends (RFC 3339): then operators are told, and it stays"
    )


def run_import(args: argparse.Namespace) -> int:
    """Send it, and say what became of it."""
    from controller.ctl.asking import connected  # noqa: PLC0415  (`--help` is quick)
    from controller.ctl.plain import plain  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    first = pb.ImportListRequest(kind=args.kind, name=args.name)
    if args.not_after is not None:
        into_timestamp(args.not_after, first.not_after)
    try:
        size = args.file.stat().st_size
        file = args.file.open("rb")
    except OSError as error:
        raise ConfigError(str(args.file), f"cannot be read: {error.strerror}") from None
    with file, connected(args) as fleet, progress("importing", size) as moved:

        def requests() -> "Iterator[fleet_pb2.ImportListRequest]":
            yield first
            sent = 0
            while chunk := file.read(CHUNK):
                yield pb.ImportListRequest(data=chunk)
                sent += len(chunk)
                moved(sent)

        response = fleet.lists.ImportList(requests())
    if args.json:
        print_json(plain(response))
        return OK
    state = "unchanged, these bytes are the latest already" if response.unchanged else "imported"
    print(f"{response.list.kind} {response.list.name} generation {response.list.generation}: {state}")
    if response.policy_generation:
        print(f"agents get it with policy generation {response.policy_generation}: sbcctl rollout status --watch")
    elif not response.unchanged:
        print("no policy in force needs it: agents get it when one does")
    return OK


def run_show(args: argparse.Namespace) -> int:
    """All of them, or those of `args.kind`."""
    from controller.ctl.asking import connected  # noqa: PLC0415
    from controller.ctl.plain import plain  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        response = fleet.lists.ListLists(pb.ListListsRequest())
    lists = [item for item in response.lists if args.kind in ("", item.kind)]
    fetches = [fetch for fetch in response.fetches if args.kind in ("", fetch.kind)]
    if args.json:
        print_json({"lists": [plain(item) for item in lists], "fetches": [plain(fetch) for fetch in fetches]})
        return OK
    now = time.time()
    print_table("", COLUMNS, [_row(item, now) for item in lists])
    if fetches:
        print()
        rows = [(f"{f.kind} {f.name}", f.url, ago(f.tried_at, now), ago(f.fetched_at, now), f.problem) for f in fetches]
        print_table("Scheduled fetches", ("list", "from", "tried", "succeeded", "what is wrong"), rows)
    return OK


def run_status(args: argparse.Namespace) -> int:
    """Where each list is."""
    from controller.ctl.asking import connected  # noqa: PLC0415
    from controller.ctl.plain import plain  # noqa: PLC0415
    from controller.ctl.watching import polled, watch  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:

        def ask() -> "list[fleet_pb2.ListAtAgent]":
            return list(fleet.lists.GetListStatus(pb.GetListStatusRequest(kind=args.kind, name=args.name)).lists)

        if args.watch:
            watch(polled(ask), view, (lambda found: {"lists": list(map(plain, found))}) if args.json else None)
            return OK
        found = ask()
    if args.json:
        print_json([plain(item) for item in found])
    else:
        print_table("", AT_AGENTS, [_at_agent(item) for item in found])
    return OK


def view(found: "Sequence[fleet_pb2.ListAtAgent]") -> "RenderableType":
    """One look."""
    from controller.ctl.watching import lines, table, together  # noqa: PLC0415

    now = time.strftime("%H:%M:%SZ", time.gmtime())
    behind = sum(item.generation != item.latest for item in found)
    return together(
        lines(f"{now}  {len(found)} lists at agents, {behind} not the latest", ""),
        table("", AT_AGENTS, [_at_agent(item) for item in found], numbers=0),
    )


def _at_agent(item: "fleet_pb2.ListAtAgent") -> list[str]:
    problem = item.problem or ("" if item.connected else "not connected: as it was")
    if not problem and item.generation != item.latest:
        problem = "on its way" if item.offered == item.latest else "not the latest"
    numbers = (str(number) if number else "-" for number in (item.generation, item.offered, item.latest))
    return [item.agent_id, item.hostname, f"{item.kind} {item.name}", *numbers, str(item.policy_generation), problem]


def _row(item: "fleet_pb2.ListInfo", now: float) -> list[str]:
    ends = ""
    if item.HasField("not_after"):
        ends = f"{at(item.not_after)}, {ago(item.not_after, now)}"
        ends = f"ENDED {ends}" if item.not_after.seconds <= now else ends
    return [
        item.kind,
        item.name,
        str(item.generation),
        ", ".join(
            f"{count:,} {name.replace('-', ' ').replace('_', ' ')}" for name, count in sorted(item.counts.items())
        ),
        f"{item.size:,}",
        at(item.created_at),
        item.author,
        ends,
    ]
