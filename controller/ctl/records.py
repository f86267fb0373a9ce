"""`sbcctl records`: call records of all agents, as far as they have reported them."""

import argparse
from collections.abc import Mapping
from typing import Any, Final

from controller.ctl.commands import command, several
from controller.ctl.output import OK, complain, into_timestamp, moment, number, print_line

QUERY: Final = """\
sbcctl records query --since 15m --refused
sbcctl records query --calling 2015550123 --called 3035550199 --since 2026-10-14T15:00:00Z --until 2026-10-14T15:10:00Z
sbcctl records query --call-id 1f0e2d3c-7b6a@192.0.2.10 --json
sbcctl records query --since 24h --refused --limit 100000 --json > refused.jsonl"""

LIMIT: Final = 1000


def configure(parser: argparse.ArgumentParser) -> None:
    """The commands and their arguments."""
    commands = several(parser)
    query = command(commands, "query", "find records, newest first; with --json, one object to a line", QUERY, _query)
    query.add_argument("--since", metavar="T", type=moment, help="RFC 3339, or how long ago: 90s, 15m, 24h, 7d")
    query.add_argument("--until", metavar="T", type=moment, help="up to, and without, this time")
    query.add_argument("--agent", metavar="AGENT", default="", help="id of the agent, or its host name")
    query.add_argument("--calling", metavar="NUMBER", default="", help="with --called: a traceback")
    query.add_argument("--called", metavar="NUMBER", default="", help="digits with country code; ten digits are +1")
    query.add_argument("--call-id", metavar="ID", default="", help="as in the SIP header, without <>")
    query.add_argument("--trunk", metavar="ID", default="", help="as in the policy")
    query.add_argument("--rule", metavar="NAME", default="", help="that decided")
    query.add_argument("--refused", action="store_true", help="refused and dropped calls only")
    query.add_argument("--limit", metavar="N", type=number, default=LIMIT, help=f"at most, 100,000 (default {LIMIT})")


def _query(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415  (`--help` is quick)
    from controller.ctl.naming import agent_named  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    request = pb.QueryRecordsRequest(
        calling=args.calling,
        called=args.called,
        call_id=args.call_id,
        trunk=args.trunk,
        rule=args.rule,
        refused_only=args.refused,
        limit=args.limit,
    )
    if args.since is not None:
        into_timestamp(args.since, getattr(request, "from"))  # a keyword of Python
    if args.until is not None:
        into_timestamp(args.until, request.until)
    found = 0
    with connected(args) as fleet:
        if args.agent:
            request.agent_id = agent_named(fleet, args.agent)
        for response in fleet.records.QueryRecords(request):
            for text in response.json:
                found += 1
                _print(text, as_json=args.json)
    if found == args.limit:
        complain(f"{found:,} records; there may be more (--limit)")
    elif not args.json:
        complain(f"{found:,} records")
    return OK


def _print(text: str, *, as_json: bool) -> None:
    import json  # noqa: PLC0415

    record = json.loads(text)
    if as_json:
        print_line(record)
    else:
        print(f"{record.get('agent', '')}  {line_of(record)}")


def line_of(record: Mapping[str, Any]) -> str:
    """One record for people, as `sbc-agent records tail` shows it: time, verdict, who calls whom, why."""
    rule = record.get("rule")
    shadow = "".join(f"  [shadow {verdict['rule']}: {verdict['why']}]" for verdict in record.get("shadow") or ())
    return (
        f"{record.get('time')}  {record.get('action', '?'):6} {record.get('calling') or '-':>15} -> "
        f"{record.get('called') or '-':15} {record.get('trunk') or ''}  {record.get('answer') or ''}  "
        f"{f'{rule}: ' if rule else ''}{record.get('why') or ''}{shadow}  {record.get('call_id')}"
    )
