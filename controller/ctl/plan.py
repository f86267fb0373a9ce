"""In which steps agents get a generation: the options of every command that begins a rollout."""

import argparse
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from controller.ctl.output import duration, into_duration

if TYPE_CHECKING:
    from sbcedge.fleet.v1 import fleet_pb2

ALL: Final = 1.0


def add_plan(parser: argparse.ArgumentParser, usual: str) -> None:
    """`usual` says in words what happens without these options."""
    group = parser.add_argument_group(f"in which steps agents get it (default: {usual})")
    steps = group.add_mutually_exclusive_group()
    steps.add_argument(
        "--steps", metavar="S,S,...", type=_steps, help="shares of the fleet, rising; the last is 1: 0.01,0.1,1"
    )
    steps.add_argument("--at-once", action="store_true", help="all agents in one step")
    group.add_argument("--soak", metavar="T", type=duration, help="how long each step must be well (30s)")
    group.add_argument(
        "--refusal-rise", metavar="R", type=_share, help="rise of the refused share that ends it (0.2: twenty points)"
    )


def plan_of(args: argparse.Namespace) -> "fleet_pb2.RolloutPlan | None":
    """None: nothing was said, let the controller decide."""
    if args.steps is None and not args.at_once and args.soak is None and args.refusal_rise is None:
        return None
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415  (`--help` is quick)

    plan = pb.RolloutPlan(steps=[ALL] if args.at_once else args.steps or [], refusal_rise=args.refusal_rise or 0.0)
    if args.soak is not None:
        into_duration(args.soak, plan.soak)
    return plan


def _steps(text: str) -> list[float]:
    steps = [_share(part) for part in text.split(",")]
    if any(later <= earlier for earlier, later in pairwise(steps)) or steps[-1] != ALL:
        raise argparse.ArgumentTypeError(f"{text!r}: each step must be more than the one before, and the last 1")
    return steps


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: from 0 to 1")
    return share
