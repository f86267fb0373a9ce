"""`sbcctl limits`: limits that hold for the whole fleet, however calls spread over its agents."""

import argparse
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from controller.ctl.commands import add_watch, command, several
from controller.ctl.output import OK, print_json, print_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sbcedge.fleet.v1 import fleet_pb2

LIST: Final = """\
sbcctl limits list
sbcctl limits list --watch"""
SET: Final = """\
sbcctl limits set customer-east --rate 200 --burst 50
sbcctl limits set customer-east --rate 200 --partition hold
(the policy says which calls count against it: a limit of this name with fleet = "safe")"""
DELETE: Final = "sbcctl limits delete customer-east           the policy's own figures hold again"

PARTITIONS: Final = ("safe", "hold", "open")
COLUMNS: Final = ("limit", "without controller", "rate/s", "burst", "leased/s", "wanted/s", "agents", "use")


def configure(parser: argparse.ArgumentParser) -> None:
    """The commands and their arguments."""
    commands = several(parser)
    add_watch(command(commands, "list", "show the limits, and how they are shared out now", LIST, _list))
    put = command(commands, "set", "set a limit; agents have their shares of it within seconds", SET, _set)
    put.add_argument(
        "--rate", metavar="N", type=_rate, required=True, help="call attempts per second, all agents together"
    )
    put.add_argument("--burst", metavar="N", type=_rate, default=0.0, help="how many more at once (default: a third)")
    put.add_argument(
        "--partition",
        choices=PARTITIONS,
        default="safe",
        help="what an agent does while no controller answers: a share that is safe, what it had, or no limit",
    )
    put.add_argument(
        "--warn-at",
        metavar="SHARE",
        type=_share,
        help="tell operators (log, `sbcctl limits list`, metrics) from this share of it on; 1: never (default 0.8)",
    )
    delete = command(commands, "delete", "delete a limit", DELETE, _delete)
    for parser_of in (put, delete):
        parser_of.add_argument("name", metavar="NAME", help="as in the policy")


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above zero")
    return rate


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to 1")
    return share


def _list(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415  (`--help` is quick)
    from controller.ctl.plain import plain  # noqa: PLC0415
    from controller.ctl.watching import polled, watch  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:

        def ask() -> "list[fleet_pb2.FleetLimit]":
            return list(fleet.limits.ListFleetLimits(pb.ListFleetLimitsRequest()).limits)

        if args.watch:
            watch(polled(ask), view, (lambda found: {"limits": list(map(plain, found))}) if args.json else None)
            return OK
        limits = ask()
    if args.json:
        print_json([plain(limit) for limit in limits])
    else:
        print_table("", COLUMNS, [_row(limit) for limit in limits])
    return OK


def view(limits: "Sequence[fleet_pb2.FleetLimit]") -> "RenderableType":
    """One look."""
    from controller.ctl.watching import lines, table, together  # noqa: PLC0415

    now = time.strftime("%H:%M:%SZ", time.gmtime())
    return together(
        lines(f"{now}  {len(limits)} limits", ""), table("", COLUMNS, [_row(li) for li in limits], numbers=6)
    )


def _row(limit: "fleet_pb2.FleetLimit") -> list[str]:
    return [
        limit.name,
        limit.partition,
        f"{limit.rate:,.1f}",
        f"{limit.burst:,.1f}",
        f"{limit.leased:,.1f}",
        f"{limit.demand:,.1f}",
        str(limit.agents),
        (f"{limit.demand / limit.rate:.0%}" if limit.rate else "") + (" NEARLY USED UP" if limit.warned else ""),
    ]


def _set(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from controller.ctl.plain import plain  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    limit = pb.FleetLimit(
        name=args.name, rate=args.rate, burst=args.burst, partition=args.partition, warn_at=args.warn_at
    )
    with connected(args) as fleet:
        made = fleet.limits.SetFleetLimit(pb.SetFleetLimitRequest(limit=limit)).limit
    if args.json:
        print_json(plain(made))
    else:
        print(
            f"{made.name}: {made.rate:g} attempts per second, burst {made.burst:g}; {made.partition} without controller"
        )
    return OK


def _delete(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        fleet.limits.DeleteFleetLimit(pb.DeleteFleetLimitRequest(name=args.name))
    if args.json:
        print_json({"name": args.name, "deleted": True})
    else:
        print(f"{args.name} is deleted")
    return OK
