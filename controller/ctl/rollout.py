"""`sbcctl rollout`: how a generation of the policy gets to the agents, step by step."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, cast

from controller.ctl.commands import add_watch, command, several
from controller.ctl.output import BAD_INPUT, OK, at, complain, number, print_json
from controller.ctl.plan import add_plan, plan_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from controller.ctl.asking import Fleet
    from sbcedge.fleet.v1 import fleet_pb2

RUNNING: Final = "running"
DONE: Final = "done"
PHASES: Final = ("offered", "received", "validated", "applied", "confirmed", "rejected", "rolled-back")

START: Final = """\
sbcctl rollout start 8                       again, after it was halted
sbcctl rollout start 8 --steps 0.01,0.1,1 --soak 10m"""
STATUS: Final = """\
sbcctl rollout status
sbcctl rollout status --watch && echo "it is everywhere" """
HALT: Final = """\
sbcctl rollout halt --reason "customers of east complain"
sbcctl rollout halt --roll-back              and give everybody what was before"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The commands and their arguments."""
    commands = several(parser)
    start = command(commands, "start", "begin to give a generation to the agents", START, _start)
    start.add_argument("generation", metavar="GENERATION", type=number, help="see `sbcctl policy history`")
    add_plan(start, "one agent, a tenth of them, all")
    add_watch(start)
    status = command(commands, "status", "show how far a rollout is; with --watch, until it has ended", STATUS, _status)
    add_watch(status)
    halt = command(commands, "halt", "stop giving a generation to more agents", HALT, _halt)
    halt.add_argument("--reason", default="", help="for the audit log, and for whoever wonders")
    halt.add_argument("--roll-back", action="store_true", help="take it back from those that have it")
    for parser_of in (status, halt):
        parser_of.add_argument(
            "generation", metavar="GENERATION", type=number, nargs="?", default=0, help="default: the latest"
        )


def _start(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415  (`--help` is quick)
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        request = pb.StartRolloutRequest(generation=args.generation, plan=plan_of(args))
        rollout = fleet.rollout.StartRollout(request).rollout
        if args.watch:
            return follow(fleet, rollout.generation, as_json=args.json)
    return _shown(rollout, args)


def _status(args: argparse.Namespace) -> int:
    import grpc  # noqa: PLC0415

    from controller.ctl.asking import connected  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        if args.watch:
            return follow(fleet, args.generation, as_json=args.json)
        try:
            rollout = fleet.rollout.GetRollout(pb.GetRolloutRequest(generation=args.generation)).rollout
        except grpc.RpcError as error:
            if args.generation or cast("grpc.Call", error).code() is not grpc.StatusCode.NOT_FOUND:
                raise
            complain("no rollout has begun yet")
            return BAD_INPUT
    return _shown(rollout, args)


def _halt(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        request = pb.HaltRolloutRequest(generation=args.generation, reason=args.reason, roll_back=args.roll_back)
        rollout = fleet.rollout.HaltRollout(request).rollout
    return _shown(rollout, args)


def _shown(rollout: "fleet_pb2.Rollout", args: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from controller.ctl.plain import plain  # noqa: PLC0415

    if args.json:
        print_json(plain(rollout))
    else:
        Console(highlight=False).print(view(rollout))
    return OK


def follow(fleet: "Fleet", generation: int, *, as_json: bool) -> int:
    """Show it until it has ended: 0 when everybody has it, 1 when it was halted or taken back."""
    from controller.ctl.plain import plain  # noqa: PLC0415
    from controller.ctl.watching import watch  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    ended = ""

    def looks() -> "Iterator[fleet_pb2.Rollout]":
        nonlocal ended
        for response in fleet.rollout.WatchRollout(pb.WatchRolloutRequest(generation=generation)):
            ended = response.rollout.state
            yield response.rollout

    watch(looks(), view, plain if as_json else None, line)
    return OK if ended == DONE else BAD_INPUT


def line(rollout: "fleet_pb2.Rollout", what: str = "") -> str:
    """One look, on one line. `what` it is a rollout of, if not of a generation."""
    step = f"step {rollout.step + 1} of {len(rollout.steps)}"
    problems = "".join(f"\n  {problem.agent_id}: {problem.problem}" for problem in rollout.problems)
    return ", ".join(filter(None, (_head(rollout, what), step, _counts(rollout)))) + problems


def _head(rollout: "fleet_pb2.Rollout", what: str) -> str:
    return f"{what or f'generation {rollout.generation}'}: {rollout.state}" + (
        f" ({rollout.why})" if rollout.why else ""
    )


def _counts(rollout: "fleet_pb2.Rollout") -> str:
    return ", ".join(f"{rollout.phases[phase]} {phase}" for phase in PHASES if phase in rollout.phases)


def view(rollout: "fleet_pb2.Rollout", what: str = "") -> "RenderableType":
    """One look. `what` as for `line`."""
    from controller.ctl.watching import lines, table, together  # noqa: PLC0415

    head = _head(rollout, what)
    steps = [
        f"{'>' if n == rollout.step and rollout.state == RUNNING else ' '} step {n + 1} of {len(rollout.steps)}: "
        f"{share:.0%} of the agents" + (" (one at least)" if share < 1 else "")
        for n, share in enumerate(rollout.steps)
    ]
    counts = _counts(rollout) or "no agent has it"
    parts: list[RenderableType] = [lines(head, f"begun {at(rollout.started_at)}", *steps, counts)]
    if rollout.problems:
        rows = [(problem.agent_id, problem.problem) for problem in rollout.problems]
        parts.append(table("", ["agent", "why it was not taken"], rows))
    return together(*parts)
