"""`sbcctl login`: keeps what other commands need to ask a controller. The token is tried before it is kept."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Final

from agent.model import ConfigError
from controller.ctl.commands import finish
from controller.ctl.output import OK, print_json
from controller.ctl.profile import ENVIRONMENT, TOKEN_MAX, Access, keep, profile_of, read_file, token_of

EXAMPLES: Final = """\
sbcctl login controller.example.net:7444 --authority-sha256 3f9c... --token-file admin.token
ssh controller sudo cat /var/lib/sbc-edge-controller/admin.token | sbcctl login ... --token-file -
sbcctl login controller.example.net:7444 --token-file t    where the system trusts its authority
sbcctl login ... --profile lab && sbcctl agents --profile lab"""

SHA256: Final = re.compile("[0-9a-f]{64}")


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("controller", metavar="HOST:PORT", help="the controller's open port (7444, unless changed)")
    parser.add_argument("--token-file", type=Path, required=True, metavar="FILE", help="login token; - for stdin")
    known = parser.add_mutually_exclusive_group()
    known.add_argument(
        "--authority-sha256",
        metavar="HEX",
        default="",
        help="SHA-256 of the controller's authority, by which it is known at the first contact: "
        "`sbc-controller init` prints it, and its log says it at every start",
    )
    known.add_argument("--authority", type=Path, metavar="FILE", help="the authority itself, PEM")
    parser.add_argument("--profile", metavar="NAME", help=f"keep it under this name (or {ENVIRONMENT['profile']})")
    parser.add_argument("--json", action="store_true", help="print JSON")
    finish(parser, EXAMPLES, run, asks=False)


def run(args: argparse.Namespace) -> int:
    """Returns 0 when it is kept."""
    from agent.control.settings import check_address  # noqa: PLC0415  (`--help` is quick)
    from controller.ctl.asking import reaching  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    check_address(args.controller, "--controller")
    folder = profile_of(args, os.environ)
    access = Access(args.controller, _authority(args), token_of(_token(args.token_file), "--token-file"))
    with reaching(access) as fleet:
        fleet.policy.ListPolicies(pb.ListPoliciesRequest(limit=1))
    store(folder, access)
    if args.json:
        print_json({"controller": access.controller, "profile": folder.name, "kept_in": str(folder)})
    else:
        print(f"logged in at {access.controller}; kept in {folder}")
    return OK


def store(folder: Path, access: Access) -> None:
    """Raises ConfigError."""
    try:
        keep(folder, access)
    except OSError as error:
        raise ConfigError(str(error.filename or folder), f"cannot be written: {error.strerror}") from None


def _authority(args: argparse.Namespace) -> bytes | None:
    """Raises ConfigError, ControlError."""
    if args.authority is not None:
        return read_file(args.authority, "--authority")
    pin = args.authority_sha256.lower().replace(":", "")
    if not pin:
        return None
    if not SHA256.fullmatch(pin):
        raise ConfigError("--authority-sha256", "must be 64 hexadecimal digits")
    from agent.control.enrolment import authority_of  # noqa: PLC0415
    from agent.control.errors import ControllerError  # noqa: PLC0415
    from controller.ctl.asking import ControlError  # noqa: PLC0415

    try:
        return authority_of(args.controller, pin)
    except ControllerError as error:
        raise ControlError([f"not logged in: {error.reason}"]) from None


def _token(path: Path) -> bytes:
    return sys.stdin.buffer.read(TOKEN_MAX + 1) if str(path) == "-" else read_file(path, "--token-file")
