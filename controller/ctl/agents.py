"""`sbcctl agents`: the fleet on one page."""

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from controller.ctl.commands import add_watch, finish
from controller.ctl.output import OK, ago, print_json, print_table, span

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sbcedge.fleet.v1 import fleet_pb2

EXAMPLES: Final = """\
sbcctl agents
sbcctl agents --watch
sbcctl agents --trouble                      only those that need somebody
sbcctl agents --json | jq -r '.[] | select(.connected | not) | .id'"""

COLUMNS: Final = ("agent", "host", "version", "state", "policy", "offer", "calls/s", "refused", "what is wrong")

CLOCK_SECONDS: Final = 5.0
"""A clock that is further off is trouble: records and PASSporTs carry its time."""

ENDING_SECONDS: Final = 6 * 3600.0
"""Certificates are good for a day and renewed at half of it."""

DONE: Final = ("confirmed", "")


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("--trouble", action="store_true", help="only agents with something wrong")
    add_watch(parser)
    finish(parser, EXAMPLES, run)


def run(args: argparse.Namespace) -> int:
    """Returns 0 when shown."""
    from controller.ctl.asking import connected  # noqa: PLC0415  (`--help` is quick)
    from controller.ctl.plain import plain  # noqa: PLC0415
    from controller.ctl.watching import watch  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        if args.watch:
            looks = (_wanted(look.agents, args) for look in fleet.agents.WatchAgents(pb.WatchAgentsRequest()))
            watch(looks, view, (lambda agents: {"agents": list(map(plain, agents))}) if args.json else None)
            return OK
        agents = _wanted(fleet.agents.ListAgents(pb.ListAgentsRequest()).agents, args)
    if args.json:
        print_json([plain(agent) for agent in agents])
    else:
        now = time.time()
        print_table("", COLUMNS, [row(agent, now) for agent in agents])
        print(summary(agents, now))
    return OK


def _wanted(agents: "Sequence[fleet_pb2.Agent]", args: argparse.Namespace) -> "list[fleet_pb2.Agent]":
    now = time.time()
    return [agent for agent in agents if not args.trouble or (trouble(agent, now) and not agent.revoked)]


def view(agents: "Sequence[fleet_pb2.Agent]") -> "RenderableType":
    """One look as a screen."""
    from controller.ctl.watching import lines, table, together  # noqa: PLC0415

    now = time.time()
    rows = table("", COLUMNS, [row(agent, now) for agent in agents])
    return together(lines(f"{time.strftime('%H:%M:%SZ', time.gmtime(now))}  {summary(agents, now)}", ""), rows)


def summary(agents: "Sequence[fleet_pb2.Agent]", now: float) -> str:
    """ "3 agents, 2 connected, 120.0 calls/s, 1 with trouble"."""
    members = [agent for agent in agents if not agent.revoked]
    calls = sum(agent.attempts_per_second for agent in members if agent.connected)
    ill = sum(1 for agent in members if trouble(agent, now))
    here = sum(agent.connected for agent in members)
    count = f"{len(members)} agent{'s' if len(members) != 1 else ''}"
    return f"{count}, {here} connected, {calls:,.1f} calls/s" + (f", {ill} with trouble" if ill else "")


def row(agent: "fleet_pb2.Agent", now: float) -> list[str]:
    """Of COLUMNS."""
    return [
        agent.id,
        agent.hostname,
        agent.version,
        state(agent, now),
        str(agent.active_generation) if agent.active_generation else "its own",
        offer(agent),
        f"{agent.attempts_per_second:,.1f}" if agent.connected else "",
        f"{agent.refused_share:.1%}" if agent.connected else "",
        "; ".join(trouble(agent, now)),
    ]


def state(agent: "fleet_pb2.Agent", now: float) -> str:
    """In a word or two."""
    if agent.revoked:
        return "revoked"
    return "connected" if agent.connected else f"away, seen {ago(agent.last_seen, now)}"


def offer(agent: "fleet_pb2.Agent") -> str:
    """What was offered, where it is not what is in force."""
    if not agent.offered_generation or (
        agent.offer_phase in DONE and agent.offered_generation == agent.active_generation
    ):
        return ""
    return f"{agent.offered_generation} {agent.offer_phase}"


def trouble(agent: "fleet_pb2.Agent", now: float) -> list[str]:
    """What somebody should look at. A revoked agent has none."""
    if agent.revoked:
        return []
    found = [f"{name}: {why}" for name, why in sorted(agent.trouble.items())]
    if not agent.connected:
        found.append("not connected")
    if agent.offer_problem and agent.offer_phase not in DONE:
        found.append(f"generation {agent.offered_generation}: {agent.offer_problem}")
    if abs(agent.clock_offset_seconds) > CLOCK_SECONDS:
        off = agent.clock_offset_seconds
        found.append(f"its clock is {span(abs(off))} {'ahead' if off > 0 else 'behind'}")
    left = agent.certificate_not_after.seconds - now
    if left <= 0:
        found.append("its certificate has ended: enrol it again with `sbcctl tokens create --agent`")
    elif left < ENDING_SECONDS:
        found.append(f"its certificate ends in {span(left)}")
    return found
