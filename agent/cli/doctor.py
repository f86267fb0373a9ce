"""`sbc-agent doctor`: does this host have what agent.toml needs, how is the agent, and what to do about each fault."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.cli.asking import PATIENCE_SECONDS, AgentError, add_socket, agent_at
from agent.cli.output import BAD_INPUT, OK, print_json, print_table
from agent.config import CONFIG_FILE

if TYPE_CHECKING:
    from agent.host.finding import Finding

EPILOG: Final = """\
Changes nothing. Looks at agent.toml, the policy and its lists, permissions, certificates and keys, privileges of the
service, nf_tables, the kernel's queue, packet sockets and interfaces, the clock, the disk, ports, buffers, memory, the
controller, and asks the agent, if it runs. As root it can look at everything.

examples:
  sbc-agent doctor                    before the first start, and whenever something is wrong
  sbc-agent doctor --json | jq '.findings[] | select(.state == "fault")'

exit codes: 0 nothing is wrong (there may be warnings); 1 there is a fault; 2 wrong usage"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--config", type=Path, default=CONFIG_FILE, metavar="FILE", help=f"configuration (default: {CONFIG_FILE})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if there is a fault."""
    from agent.host.checks import examine  # noqa: PLC0415  (`--help` is quick)
    from agent.host.finding import State  # noqa: PLC0415

    asked = list(_running(args.socket))
    findings = [*examine(args.config, time.time(), runs=any(one.about == "agent" for one in asked)), *asked]
    faults = sum(one.state is State.FAULT for one in findings)
    if args.json:
        rows = [{"about": f.about, "state": f.state.value, "found": f.found, "advice": f.advice} for f in findings]
        print_json({"healthy": not faults, "findings": rows})
    else:
        columns = ("about", "state", "found", "what to do")
        print_table("", columns, [(f.about, f.state.value, f.found, f.advice) for f in findings])
        print("\nnothing is wrong" if not faults else f"\n{faults} fault{'s' if faults > 1 else ''}")
    return BAD_INPUT if faults else OK


def _running(socket: Path) -> "Iterator[Finding]":
    """What the agent says of its parts; "agent" is a finding if one answers."""
    from agent.host.finding import fault, ok, skipped  # noqa: PLC0415
    from sbcedge.admin.v1 import admin_pb2  # noqa: PLC0415

    if not socket.exists():
        yield skipped("service", "no agent runs", "systemctl start sbc-edge-agent; journalctl -u sbc-edge-agent")
        return
    try:
        with agent_at(socket) as agent:
            status = agent.GetStatus(admin_pb2.GetStatusRequest(), timeout=PATIENCE_SECONDS).status
    except AgentError as error:
        yield skipped("service", str(error), "run it as root; systemctl status sbc-edge-agent")
        return
    yield ok("agent", f"version {status.version} runs, policy generation {status.policy_generation}")
    for part in status.components:
        if part.healthy:
            yield ok(f"agent: {part.component}", part.detail)
        else:
            yield fault(f"agent: {part.component}", part.detail, "journalctl -u sbc-edge-agent says more")
