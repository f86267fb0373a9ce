"""`sbc-agent enroll`: trade a token for a certificate, so that a controller can manage this agent.

Knows arguments and printing; what is done is agent.control.enrolment.
"""

import argparse
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from agent.cli.output import BAD_INPUT, OK, USAGE_ERROR, complain, complain_of_file, print_json
from agent.control.settings import DEFAULT_DIRECTORY, check_address
from agent.model import ConfigError

TOKEN_MAX: Final = 4096
SHA256: Final = re.compile("[0-9a-f]{64}")

EPILOG: Final = """\
The operator of the controller makes a token with `sbcctl tokens create`; it is good for one agent, for an hour, and is
shown with the SHA-256 of the controller's authority. The private key is made here and does not leave this host.

If the answer is lost, run the same command again: the same token gets the same certificate. An agent that runs takes a
new certificate into use by itself; one whose certificate ended while it was away goes on screening until it is enrolled
again, with a token for its name.

examples:
  sbc-agent enroll --controller controller.example.net:7444 --token-file token --authority-sha256 3f9c...
  sbcctl tokens create | ssh sbc1 sbc-agent enroll --controller ... --authority-sha256 ... --token-file -

exit codes: 0 enrolled; 1 not enrolled, stderr says why; 2 wrong usage; 130 interrupted"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--controller",
        required=True,
        metavar="HOST:PORT",
        help="the controller's open port (7444, unless changed)",
    )
    parser.add_argument(
        "--token-file", required=True, type=Path, metavar="FILE", help="file that holds the token; - for stdin"
    )
    parser.add_argument(
        "--authority-sha256",
        default="",
        metavar="HEX",
        help="SHA-256 of the controller's authority, by which it is known at the first contact (default: the "
        "controller must have a certificate of an authority that this system trusts)",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=DEFAULT_DIRECTORY,
        metavar="D",
        help=f"where key and certificate are kept, [controller] directory of agent.toml (default {DEFAULT_DIRECTORY})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Returns 0 when this agent is enrolled, 1 when not, 2 for arguments that cannot be right."""
    pin = args.authority_sha256.lower().replace(":", "")
    try:
        check_address(args.controller, "--controller")
    except ConfigError as error:
        complain(str(error))
        return USAGE_ERROR
    if pin and not SHA256.fullmatch(pin):
        complain("--authority-sha256: must be 64 hexadecimal digits")
        return USAGE_ERROR
    token = _token(args.token_file)
    return BAD_INPUT if token is None else _enrol(args, token, pin)


def _enrol(args: argparse.Namespace, token: str, pin: str) -> int:
    from agent.control.enrolment import enrol  # noqa: PLC0415  (`--help` is quick)
    from agent.control.errors import ControllerError, Trouble  # noqa: PLC0415

    try:
        credentials = enrol(args.controller, args.dir, token, pin, _version())
    except ControllerError as error:
        complain(f"not enrolled: {error.reason}")
        if not pin and error.trouble is Trouble.AWAY:
            complain("a controller with an authority of its own is known by --authority-sha256")
        elif error.trouble is Trouble.AWAY:
            complain(f"does a controller run there, and is {args.controller} its open port (7444, unless changed)?")
        elif error.trouble is Trouble.STRANGER:
            complain("its operator makes another token: sbcctl tokens create")
        return BAD_INPUT
    except OSError as error:
        complain_of_file(error, args.dir)
        return BAD_INPUT
    until = datetime.fromtimestamp(credentials.not_after, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if args.json:
        print_json({"agent_id": credentials.agent_id, "not_after": until, "directory": str(args.dir)})
    else:
        print(f"enrolled as {credentials.agent_id}, certificate until {until}, in {args.dir}")
    return OK


def _token(path: Path) -> str | None:
    """None after complaining."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(TOKEN_MAX + 1)
        else:
            with path.open("rb") as file:
                data = file.read(TOKEN_MAX + 1)
    except OSError as error:
        complain_of_file(error, path)
        return None
    text = data.decode("ascii", "replace").strip()
    if not text or len(data) > TOKEN_MAX or not text.isascii() or not text.isprintable() or " " in text:
        complain(f"{path}: holds no token: one word on one line")
        return None
    return text


def _version() -> str:
    try:
        return version("sbc-edge-agent")
    except PackageNotFoundError:
        return "unknown"
