"""`sbcctl operators`: who may ask the controller, and how much. For administrators."""

import argparse
import time
from typing import TYPE_CHECKING, Final

from controller.ctl.commands import command, several
from controller.ctl.output import OK, ago, at, duration, into_duration, print_json, print_table

if TYPE_CHECKING:
    from sbcedge.fleet.v1 import fleet_pb2

ROLES: Final = ("viewer", "operator", "admin")

CREATE: Final = """\
sbcctl operators create jane --role operator
sbcctl operators create noc-screen --role viewer --valid-for 365d --quiet > noc.token"""
LIST: Final = "sbcctl operators list"
REVOKE: Final = "sbcctl operators revoke jane                 token and certificates; live views end within a second"


def configure(parser: argparse.ArgumentParser) -> None:
    """The commands and their arguments."""
    commands = several(parser)
    create = command(commands, "create", "make an operator; prints the login token, once", CREATE, _create)
    create.add_argument(
        "--role",
        choices=ROLES,
        required=True,
        help="viewer reads; operator changes policy, lists, limits, agents; admin makes tokens and operators too",
    )
    create.add_argument("--valid-for", metavar="T", type=duration, help="how long the login token is good (90d)")
    create.add_argument("-q", "--quiet", action="store_true", help="print the login token and nothing else")
    command(commands, "list", "list the operators", LIST, _list)
    revoke = command(commands, "revoke", "shut an operator out", REVOKE, _revoke)
    for parser_of in (create, revoke):
        parser_of.add_argument("name", metavar="NAME", help="of a person or a program")


def _create(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415  (`--help` is quick)
    from controller.ctl.plain import plain  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    request = pb.CreateOperatorRequest(name=args.name, role=f"ROLE_{args.role.upper()}")
    if args.valid_for is not None:
        into_duration(args.valid_for, request.valid_for)
    with connected(args) as fleet:
        made = fleet.access.CreateOperator(request)
    if args.json:
        print_json(plain(made))
    elif args.quiet:
        print(made.login_token)
    else:
        print(
            f"{args.name}, {args.role}, until {at(made.expires_at)}. Login token, shown once:\n\n  {made.login_token}"
        )
    return OK


def _list(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from controller.ctl.plain import plain  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        operators = fleet.access.ListOperators(pb.ListOperatorsRequest()).operators
    if args.json:
        print_json([plain(operator) for operator in operators])
    else:
        now = time.time()
        rows = [(operator.name, plain(operator)["role"], _state(operator, now)) for operator in operators]
        print_table("", ("operator", "role", "login token"), rows)
    return OK


def _state(operator: "fleet_pb2.Operator", now: float) -> str:
    if operator.revoked:
        return "revoked"
    return f"{'ended' if operator.expires_at.seconds <= now else 'ends'} {ago(operator.expires_at, now)}"


def _revoke(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        fleet.access.RevokeOperator(pb.RevokeOperatorRequest(name=args.name))
    if args.json:
        print_json({"name": args.name, "revoked": True})
    else:
        print(f"{args.name} is shut out")
    return OK
