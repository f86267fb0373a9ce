"""`sbc-agent drain`: let the running agent finish what it has and end."""

import argparse
import time
from typing import Final

from agent.cli.asking import PATIENCE_SECONDS, AgentError, add_socket, agent_at
from agent.cli.output import BAD_INPUT, OK, complain

EPILOG: Final = """\
The agent takes no new calls (the SBC lets them pass), answers those in flight, writes what it has recorded and ends.
systemd does not start it again: it ended cleanly. `systemctl start sbc-edge-agent` does.

exit codes: 0 it drains, or with --wait has ended; 1 no agent answers, or it did not end in time; 2 wrong usage"""

LOOK_SECONDS: Final = 0.1


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.epilog = EPILOG
    parser.add_argument("--wait", type=float, default=0.0, metavar="S", help="wait up to so many seconds for the end")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 when it drains, or has ended in the time to wait; else 1."""
    from sbcedge.admin.v1 import admin_pb2  # noqa: PLC0415  (`--help` is quick)

    try:
        with agent_at(args.socket) as agent:
            response = agent.Drain(admin_pb2.DrainRequest(), timeout=PATIENCE_SECONDS)
    except AgentError as error:
        complain(str(error))
        return BAD_INPUT
    print(f"draining, {response.in_flight:,} requests in flight")
    if not args.wait:
        return OK
    deadline = time.monotonic() + args.wait
    while args.socket.exists():  # the admin socket is the last thing that goes
        if time.monotonic() > deadline:
            complain(f"the agent has not ended after {args.wait:g} s")
            return BAD_INPUT
        time.sleep(LOOK_SECONDS)
    print("the agent has ended")
    return OK
