"""`sbc-agent identity sign`: one Identity header value, for tests and for trying out a key.

Knows arguments. What is written is agent.identity.signing, which key may be used agent.stir.keys.
"""

import argparse
import time
from pathlib import Path
from typing import Final
from uuid import uuid4

from agent.cli.output import BAD_INPUT, OK, USAGE_ERROR, complain
from agent.identity.signing import ATTESTATIONS, Signer
from agent.model import ConfigError
from agent.stir.keys import read_key

_TEXT: Final = """\
Writes the value of an Identity header: a SHAKEN PASSporT, or with --div one that says that a call was sent on. Numbers
are signed as E.164 digits; "+" and separators are taken off. The key must be readable for nobody else."""

_EPILOG: Final = """\
examples:
  sbc-agent identity sign --key sti.key --x5u https://certs.example.net/1234.pem --orig 12015550123 --dest 13035550199
  sbc-agent identity sign ... --dest 13035550142 --div 13035550199     calls to 13035550199 go to 13035550142 now

exit codes: 0 signed; 1 the key cannot be used, or a claim cannot be signed; 2 wrong usage"""

_SEPARATORS: Final = {ord(character): None for character in "+-.() "}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "sign",
        help="write an Identity header value",
        description=_TEXT,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--key", metavar="PEM", type=Path, required=True, help="private key (P-256, mode 0600)")
    parser.add_argument("--x5u", metavar="URL", required=True, help="where verifiers find the certificate")
    parser.add_argument("--orig", metavar="NUMBER", type=_number, required=True, help="who calls")
    parser.add_argument(
        "--dest",
        metavar="NUMBER",
        type=_number,
        required=True,
        action="append",
        help="who is called; may be given more than once",
    )
    parser.add_argument("--attest", choices=sorted(ATTESTATIONS), help="attestation (default A)")
    parser.add_argument("--origid", metavar="UUID", help="origination identifier (default: a random one)")
    parser.add_argument("--iat", metavar="SECONDS", type=int, help="time of signing, since the epoch (default: now)")
    parser.add_argument(
        "--div", metavar="NUMBER", type=_number, help="sign a div PASSporT: the number that was called before"
    )
    parser.set_defaults(identity_run=run)


def _number(text: str) -> str:
    return text.translate(_SEPARATORS)


def run(args: argparse.Namespace) -> int:
    """Returns 0 and writes the value; 1 or 2 if there is none."""
    if args.div is not None and (args.attest or args.origid):
        complain("--attest and --origid do not go with --div: a div PASSporT has neither claim (RFC 8946 3)")
        return USAGE_ERROR
    iat = int(time.time()) if args.iat is None else args.iat
    dest = tuple(args.dest)
    try:
        signer = Signer(read_key(args.key, "key"), args.x5u)
        if args.div is None:
            value = signer.sign(args.orig, dest, args.attest or "A", args.origid or str(uuid4()), iat)
        else:
            value = signer.sign_diversion(args.orig, dest, args.div, iat)
    except ConfigError as error:
        complain(str(error))
        return BAD_INPUT
    except ValueError as error:
        complain(f"cannot sign: {error}")
        return BAD_INPUT
    print(value.decode())
    return OK
