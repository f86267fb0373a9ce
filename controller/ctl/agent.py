"""`sbcctl agent`: one agent: how it is, what it decides, why; and what it shall do.

What an agent says of itself (`status`, `explain`, `tail`) comes from the agent, through the controller.
"""

import argparse
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from controller.ctl.commands import add_watch, command, several
from controller.ctl.output import (
    BAD_INPUT,
    OK,
    ago,
    at,
    complain,
    duration,
    into_duration,
    print_json,
    print_line,
    print_table,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from controller.ctl.asking import Fleet
    from sbcedge.fleet.v1 import fleet_pb2

    Detail = fleet_pb2.GetAgentResponse

AGENT: Final = "id of the agent, or its host name"

SHOW: Final = """\
sbcctl agent show agent-7f3a
sbcctl agent show sbc7.example.net --watch"""
STATUS: Final = "sbcctl agent status agent-7f3a                 like `sbc-agent status` on its host"
TAIL: Final = """\
sbcctl agent tail agent-7f3a --refused
sbcctl agent tail agent-7f3a --for 10m --json | jq .why"""
EXPLAIN: Final = "sbcctl agent explain agent-7f3a 1f0e2d3c-7b6a@192.0.2.10"
DIAGNOSTICS: Final = "sbcctl agent diagnostics agent-7f3a > agent-7f3a.json"
DRAIN: Final = "sbcctl agent drain agent-7f3a                  it ends; its service manager starts it again, or not"
REVOKE: Final = """\
sbcctl agent revoke agent-7f3a --reason "disk was stolen"
(its streams end within a second; it goes on screening by what it has, until it is stopped on its host)"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The commands and their arguments."""
    commands = several(parser)
    show = command(commands, "show", "show what the controller knows of an agent", SHOW, _show)
    add_watch(show)
    status = command(commands, "status", "ask an agent what it has decided, and how its parts are", STATUS, _status)
    tail = command(commands, "tail", "show the calls that an agent decides, as it decides them", TAIL, _tail)
    tail.add_argument("--refused", action="store_true", help="refused and dropped calls only")
    tail.add_argument("--for", dest="seconds", metavar="T", type=duration, default=60.0, help="how long (default 60s)")
    explain = command(commands, "explain", "show what an agent knew of a call and why it decided so", EXPLAIN, _explain)
    diagnose = command(commands, "diagnostics", "have an agent collect what support needs", DIAGNOSTICS, _diagnostics)
    drain = command(commands, "drain", "let an agent finish what it has and end", DRAIN, _drain)
    revoke = command(commands, "revoke", "shut an agent out of the fleet, for good", REVOKE, _revoke)
    revoke.add_argument("--reason", default="", help="for the audit log, and for whoever wonders")
    for parser_of in (show, status, tail, explain, diagnose, drain, revoke):
        parser_of.add_argument("agent", metavar="AGENT", help=AGENT)
    explain.add_argument("call_id", metavar="CALL-ID", help="as in the SIP header, without <>")


# --- what the controller knows


def _show(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415  (`--help` is quick)
    from controller.ctl.naming import agent_named  # noqa: PLC0415
    from controller.ctl.watching import polled, watch  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        request = pb.GetAgentRequest(id=agent_named(fleet, args.agent))
        if args.watch:
            watch(polled(lambda: fleet.agents.GetAgent(request)), _view, _flat if args.json else None)
            return OK
        detail = fleet.agents.GetAgent(request)
    if args.json:
        print_json(_flat(detail))
    else:
        print_table("", ["what", "value"], rows_of(detail.agent, time.time()))
        if detail.counters:
            print()
            print_table("Counters, since it was started", ["counter", "value"], _counters(detail))
    return OK


def _flat(detail: "Detail") -> dict[str, Any]:
    from controller.ctl.plain import plain  # noqa: PLC0415

    return plain(detail.agent) | {"counters": dict(sorted(detail.counters.items()))}


def _view(detail: "Detail") -> "RenderableType":
    from controller.ctl.watching import lines, table, together  # noqa: PLC0415

    rows = rows_of(detail.agent, time.time())
    return together(
        table("", ["what", "value"], rows), lines(""), table("", ["counter", "value"], _counters(detail), numbers=1)
    )


def _counters(detail: "Detail") -> list[tuple[str, str]]:
    return [(name, f"{count:,}") for name, count in sorted(detail.counters.items()) if count]


def rows_of(agent: "fleet_pb2.Agent", now: float) -> list[tuple[str, str]]:
    """Name and value, what matters most first."""
    from controller.ctl.agents import offer, state, trouble  # noqa: PLC0415

    rows = [
        ("agent", agent.id),
        ("host", agent.hostname),
        ("state", state(agent, now)),
        *(("NOT WELL", text) for text in trouble(agent, now)),
        ("policy in force", f"generation {agent.active_generation}" if agent.active_generation else "its own file"),
        ("offered", offer(agent)),
        ("calls", f"{agent.attempts_per_second:,.1f}/s, {agent.refused_share:.1%} refused" if agent.connected else ""),
        ("records archived", f"{agent.records_committed:,}"),
        ("version", agent.version),
        ("last seen", f"{at(agent.last_seen)}, {ago(agent.last_seen, now)}"),
        ("clock", f"{agent.clock_offset_seconds:+.3f} s" if agent.connected else ""),
        ("certificate until", f"{at(agent.certificate_not_after)}, {ago(agent.certificate_not_after, now)}"),
        ("enrolled", at(agent.enrolled_at)),
    ]
    return [row for row in rows if row[1]]


# --- what the agent says


def _said(fleet: "Fleet", args: argparse.Namespace, word: str, argument: str = "", seconds: float = 0) -> Iterator[Any]:
    """The objects that the agent answers with."""
    from controller.ctl.naming import agent_named  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    request = pb.RunCommandRequest(agent_id=agent_named(fleet, args.agent), command=word, argument=argument)
    if seconds:
        into_duration(seconds, request.duration)
    for response in fleet.agents.RunCommand(request):
        for text in response.json:
            try:
                yield json.loads(text)
            except (ValueError, RecursionError):
                complain(f"{args.agent} says what is no JSON: {text[:80]!r}")


def _status(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415

    with connected(args) as fleet:
        said = list(_said(fleet, args, "status"))
    if args.json:
        print_json(said[0] if len(said) == 1 else said)
        return OK
    for status in said:
        _print_status(status)
    return OK


def _print_status(said: Any) -> None:
    """As `sbc-agent status` does; a status of another release as what it is."""
    from google.protobuf.json_format import ParseDict, ParseError  # noqa: PLC0415

    from agent.cli import status_report as report  # noqa: PLC0415
    from sbcedge.admin.v1 import admin_pb2  # noqa: PLC0415

    try:
        status = ParseDict(said, admin_pb2.Status(), ignore_unknown_fields=True)
    except ParseError:
        print_json(said)
        return
    print("\n".join(report.summary(status)))
    tables = (
        ("Parts", ("part", "state", "detail"), report.component_rows(status)),
        ("Trunks", ("trunk", "attempts", "allowed", "refused", "dropped"), report.trunk_rows(status)),
        ("Rules", ("rule", "mode", "refused", "dropped", "in shadow"), report.rule_rows(status)),
        ("Lists", ("list", "version", "made", "numbers"), report.list_rows(status)),
    )
    for title, columns, rows in tables:
        if rows:
            print()
            print_table(title, columns, rows)


def _tail(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from controller.ctl.records import line_of  # noqa: PLC0415

    with connected(args) as fleet:
        for record in _said(fleet, args, "tail", "refused" if args.refused else "", args.seconds):
            if args.json:
                print_line(record)
            elif "not_shown" in record:
                complain(f"{record['not_shown']} calls more, too fast to be shown")
            else:
                print(line_of(record), flush=True)
    return OK


def _explain(args: argparse.Namespace) -> int:
    from agent.cli.explain import explained  # noqa: PLC0415
    from controller.ctl.asking import connected  # noqa: PLC0415

    with connected(args) as fleet:
        found = list(_said(fleet, args, "explain", args.call_id))
    if args.json:
        print_json(found)
    else:
        for number, record in enumerate(found, 1):
            print_table(f"attempt {number} of {len(found)}", ["what", "value"], list(explained(record)))
    if not found:
        complain(f"CALL-ID: {args.agent} has no record of a call with Call-ID {args.call_id}")
        return BAD_INPUT
    return OK


def _diagnostics(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415

    with connected(args) as fleet:
        said = list(_said(fleet, args, "diagnostics"))
    print_json(said[0] if len(said) == 1 else said)
    return OK


# --- what it shall do


def _drain(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415

    with connected(args) as fleet:
        list(_said(fleet, args, "drain"))
    _done(args, f"{args.agent} drains, and ends")
    return OK


def _revoke(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from controller.ctl.naming import agent_named  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        agent_id = agent_named(fleet, args.agent)
        fleet.agents.RevokeAgent(pb.RevokeAgentRequest(id=agent_id, reason=args.reason))
    _done(args, f"{agent_id} is revoked; it goes on screening by what it has")
    return OK


def _done(args: argparse.Namespace, words: str) -> None:
    if args.json:
        print_json({"agent": args.agent, "done": True})
    else:
        print(words)
