"""`sbcctl tokens`: what agents enrol with: good for one agent and an hour, shown once."""

import argparse
import time
from typing import TYPE_CHECKING, Final

from controller.ctl.commands import command, several
from controller.ctl.output import OK, ago, at, duration, into_duration, print_json, print_table
from controller.ctl.profile import resolve

if TYPE_CHECKING:
    from sbcedge.fleet.v1 import fleet_pb2

OPEN_PORT: Final = 7444
"""[listen] open of the controller, unless changed."""

CREATE: Final = """\
sbcctl tokens create --note sbc7             prints what to type on the agent's host
sbcctl tokens create --quiet | ssh sbc7 sbc-agent enroll --controller ... --authority-sha256 ... --token-file -
sbcctl tokens create --agent agent-7f3a      for an agent whose certificate ended, or whose disk was replaced"""
LIST: Final = "sbcctl tokens list"
REVOKE: Final = "sbcctl tokens revoke 5d0c51f2a9b3"


def configure(parser: argparse.ArgumentParser) -> None:
    """The commands and their arguments."""
    commands = several(parser)
    create = command(commands, "create", "make a token for an agent to enrol with, once", CREATE, _create)
    create.add_argument("--note", default="", help="what it is for")
    create.add_argument("--valid-for", metavar="T", type=duration, help="at most, and by default, 1h")
    create.add_argument("--agent", metavar="AGENT", default="", help="let this agent enrol again, under its name")
    create.add_argument("-q", "--quiet", action="store_true", help="print the token and nothing else")
    command(commands, "list", "list the tokens, used and unused", LIST, _list)
    revoke = command(commands, "revoke", "make a token worthless", REVOKE, _revoke)
    revoke.add_argument("id", metavar="ID", help="see `sbcctl tokens list`")


def _create(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415  (`--help` is quick)
    from controller.ctl.naming import agent_named  # noqa: PLC0415
    from controller.ctl.plain import plain  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    request = pb.CreateEnrollmentTokenRequest(note=args.note)
    if args.valid_for is not None:
        into_duration(args.valid_for, request.valid_for)
    with connected(args) as fleet:
        if args.agent:
            request.agent_id = agent_named(fleet, args.agent)
        made = fleet.access.CreateEnrollmentToken(request)
    if args.json:
        print_json(plain(made))
    elif args.quiet:
        print(made.token)
    else:
        access = resolve(args)
        # Whoever asks with a token asks the open port, where agents enrol; with a certificate it is the other port.
        host = access.controller.rpartition(":")[0]
        address = access.controller if access.token else f"{host}:{OPEN_PORT}"
        print(f"token {made.id}, good for one agent until {at(made.expires_at)}, shown once. On the agent's host:\n")
        print(
            f"  sbc-agent enroll --controller {address} --authority-sha256 {made.authority_sha256} --token-file - <<<"
            f" {made.token}"
        )
    return OK


def _list(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from controller.ctl.plain import plain  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        tokens = fleet.access.ListEnrollmentTokens(pb.ListEnrollmentTokensRequest()).tokens
    if args.json:
        print_json([plain(token) for token in tokens])
    else:
        now = time.time()
        rows = [(token.id, _state(token, now), token.agent_id or "a new one", token.note) for token in tokens]
        print_table("", ("token", "state", "for", "note"), rows)
    return OK


def _state(token: "fleet_pb2.EnrollmentToken", now: float) -> str:
    if token.used_by:
        return f"used by {token.used_by}"
    if token.revoked:
        return "revoked"
    return f"{'ended' if token.expires_at.seconds <= now else 'ends'} {ago(token.expires_at, now)}"


def _revoke(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        fleet.access.RevokeEnrollmentToken(pb.RevokeEnrollmentTokenRequest(id=args.id))
    if args.json:
        print_json({"id": args.id, "revoked": True})
    else:
        print(f"token {args.id} is worthless now")
    return OK
