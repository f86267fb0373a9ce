"""`sbcctl upgrade`: how another version of the agent gets to the hosts of the fleet, step by step."""

import argparse
from typing import TYPE_CHECKING, Final, cast

from controller.ctl.commands import add_watch, command, several
from controller.ctl.output import BAD_INPUT, OK, complain, number, print_json
from controller.ctl.plan import add_plan, plan_of
from controller.ctl.rollout import DONE, RUNNING, line, view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from controller.ctl.asking import Fleet
    from sbcedge.fleet.v1 import fleet_pb2

START: Final = """\
sbcctl upgrade start 0.2.0
sbcctl upgrade start 0.2.0 --steps 0.01,0.1,1 --soak 10m --watch"""
STATUS: Final = """\
sbcctl upgrade status
sbcctl upgrade status --watch && echo "it is everywhere" """
HALT: Final = """\
sbcctl upgrade halt --reason "the night shift asks for it"
sbcctl upgrade halt --roll-back              and give those that have it what they had"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The commands and their arguments."""
    commands = several(parser)
    start = command(commands, "start", "begin to put a version in force on the agents' hosts", START, _start)
    start.add_argument("version", metavar="VERSION", help="of the package, as the hosts' repository has it")
    add_plan(start, "one agent, a tenth of them, all")
    add_watch(start)
    status = command(commands, "status", "show how far it is; with --watch, until it has ended", STATUS, _status)
    add_watch(status)
    halt = command(commands, "halt", "ask no more agents", HALT, _halt)
    halt.add_argument("--reason", default="", help="for the audit log, and for whoever wonders")
    halt.add_argument("--roll-back", action="store_true", help="put back what was before on those that have it")
    for parser_of in (status, halt):
        parser_of.add_argument(
            "number", metavar="NUMBER", type=number, nargs="?", default=0, help="of the upgrade (default: the latest)"
        )


def _start(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415  (`--help` is quick)
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        upgrade = fleet.upgrade.StartUpgrade(pb.StartUpgradeRequest(version=args.version, plan=plan_of(args))).upgrade
        if args.watch:
            return _follow(fleet, upgrade.rollout.generation, as_json=args.json)
    return _shown(upgrade, args)


def _status(args: argparse.Namespace) -> int:
    import grpc  # noqa: PLC0415

    from controller.ctl.asking import connected  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        try:
            upgrade = fleet.upgrade.GetUpgrade(pb.GetUpgradeRequest(upgrade=args.number)).upgrade
        except grpc.RpcError as error:
            if args.number or cast("grpc.Call", error).code() is not grpc.StatusCode.NOT_FOUND:
                raise
            complain("no upgrade has begun yet")
            return BAD_INPUT
        if args.watch:
            return _follow(fleet, upgrade.rollout.generation, as_json=args.json)
    return _shown(upgrade, args)


def _halt(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        request = pb.HaltUpgradeRequest(upgrade=args.number, reason=args.reason, roll_back=args.roll_back)
        upgrade = fleet.upgrade.HaltUpgrade(request).upgrade
    return _shown(upgrade, args)


def _shown(upgrade: "fleet_pb2.Upgrade", args: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from controller.ctl.plain import plain  # noqa: PLC0415

    if args.json:
        print_json(plain(upgrade))
    else:
        Console(highlight=False).print(_view(upgrade))
    return OK


def _follow(fleet: "Fleet", wanted: int, *, as_json: bool) -> int:
    """Show it until it has ended: 0 when everybody has it who takes it, 1 when it was halted or taken back."""
    from controller.ctl.plain import plain  # noqa: PLC0415
    from controller.ctl.watching import polled, watch  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    ended = ""

    def looks() -> "Iterator[fleet_pb2.Upgrade]":
        nonlocal ended
        for upgrade in polled(lambda: fleet.upgrade.GetUpgrade(pb.GetUpgradeRequest(upgrade=wanted)).upgrade):
            ended = upgrade.rollout.state
            yield upgrade
            if ended != RUNNING:
                return

    watch(looks(), _view, plain if as_json else None, _line)
    return OK if ended == DONE else BAD_INPUT


def _line(upgrade: "fleet_pb2.Upgrade") -> str:
    passed = f", {len(upgrade.passed_by)} passed by" if upgrade.passed_by else ""
    return line(upgrade.rollout, _what(upgrade)) + passed


def _what(upgrade: "fleet_pb2.Upgrade") -> str:
    if upgrade.takes_back:
        return f"upgrade {upgrade.rollout.generation}, which takes back {upgrade.takes_back}"
    return f"upgrade {upgrade.rollout.generation} to {upgrade.version}"


def _view(upgrade: "fleet_pb2.Upgrade") -> "RenderableType":
    from controller.ctl.watching import table, together  # noqa: PLC0415

    parts = [view(upgrade.rollout, _what(upgrade))]
    if upgrade.passed_by:
        rows = [(one.agent_id, one.problem) for one in upgrade.passed_by]
        parts.append(table("", ["agent", "why it is passed by"], rows))
    return together(*parts)
