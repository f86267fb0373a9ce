"""`sbc-agent identity verify`: what the Identity rows of one INVITE are worth, without a network.

Knows arguments, files and printing. Certificates come from files, the time from an argument; everything else is done
by agent.identity as the daemon does it.
"""

import argparse
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agent.cli.number import add_country_argument
from agent.cli.output import BAD_INPUT, OK, USAGE_ERROR, complain, print_json
from agent.cli.parse import read_raw
from agent.identity.certificate import ANCHORS_BYTES_MAX, CHAIN_BYTES_MAX, CertificateError, read_anchors, read_chain
from agent.identity.crl import CRL_BYTES_MAX, read_crl
from agent.identity.model import RESPONSES, Credential, Failure, SignalledCall, Unreachable, Verification
from agent.identity.replay import ReplayCache
from agent.identity.signalled import callers, signalled
from agent.identity.trust import TrustStore, refused
from agent.identity.verification import PORTS, Verifier, VerifierSettings
from agent.model import ConfigError, ParseError, Scan
from agent.numbers.reading import read_number
from agent.records.record import rfc3339
from agent.sip.scan import scan

SUMMARY: Final = "verify the caller-ID signatures of one INVITE, offline"

_TEXT: Final = """\
Verifies the Identity rows of an INVITE as the agent does, with certificates from files in place of the network. The
caller is the P-Asserted-Identity number, or that of From where nobody asserts one. Prints one JSON object."""

_EPILOG: Final = """\
examples:
  sbc-agent identity verify invite.sip --trust-anchor sti-roots.pem \\
      --x5u https://certs.example.net/sti/1234.pem=1234.pem
  sbc-agent identity verify - --now 2026-10-14T14:15:00Z --freshness 60 --trust-anchor root.pem --x5u URL=FILE \\
      --crl sti-pa.crl --crl-signer sti-pa-crl.pem

exit codes: 0 accepted; 1 rejected ("class" and "code" say as what); 2 wrong usage, or a file that cannot be used"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "verify", help=SUMMARY, description=_TEXT, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("message", metavar="MESSAGE", help="file with one INVITE, or - for stdin")
    parser.add_argument(
        "--now",
        metavar="T",
        type=_time,
        help="verify as of then: epoch seconds, or 2026-10-14T14:15:00Z (default: now)",
    )
    parser.add_argument(
        "--freshness", metavar="S", type=_seconds, default=60.0, help="seconds that iat and Date may be off (60)"
    )
    parser.add_argument(
        "--trust-anchor", metavar="PEM", type=Path, action="append", required=True, help="trusted roots; repeatable"
    )
    parser.add_argument(
        "--x5u",
        metavar="URL=FILE",
        type=_served,
        action="append",
        default=[],
        help="what a certificate URL serves; repeatable",
    )
    parser.add_argument("--crl", metavar="FILE", type=Path, action="append", default=[], help="revocation list")
    parser.add_argument(
        "--crl-signer",
        metavar="PEM",
        type=Path,
        action="append",
        default=[],
        help="certificates of who signs revocation lists, besides the trust anchors",
    )
    parser.add_argument(
        "--port",
        metavar="PORT",
        type=int,
        action="append",
        help="ports that a certificate URL may name (443 and 8443); repeatable",
    )
    parser.add_argument("--lenient", action="store_true", help="take what RFC 8224 allows and SHAKEN does not")
    add_country_argument(parser)
    parser.set_defaults(identity_run=run)


def _time(text: str) -> float:
    try:
        if re.fullmatch(r"[0-9]{1,12}(?:\.[0-9]{1,9})?", text, re.ASCII):
            return float(text)
        when = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither epoch seconds nor 2026-10-14T14:15:00Z") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return float(text)


def _served(text: str) -> tuple[str, Path]:
    # The file comes after the last "=": a URL may hold one, and a file that does can be linked.
    url, equals, file = text.rpartition("=")
    if not equals or not url or not file:
        raise argparse.ArgumentTypeError(f"{text!r} is not URL=FILE")
    return url, Path(file)


def run(args: argparse.Namespace) -> int:
    """Returns 0 if the call is authenticated, 1 if it is not, 2 if a file cannot be used."""
    when = time.time() if args.now is None else args.now
    try:
        message = _message(args.message)
        credentials = _credentials(args, when)
    except ConfigError as error:
        complain(str(error))
        return USAGE_ERROR
    settings = VerifierSettings(args.freshness, args.lenient, tuple(args.port or PORTS))
    verifier = Verifier(settings, ReplayCache())
    call = call_of(message, args.country)
    verification = verifier.judge(verifier.read(message.identity), credentials, call, when)
    print_json(describe(verification, call, when))
    return OK if verification.valid else BAD_INPUT


def call_of(message: Scan, country: str) -> SignalledCall:
    """The call that this INVITE signals, where no policy knows the trunk."""
    called, to = (read_number(uri, country) for uri in (message.request_uri, message.to_uri))
    return signalled(message, callers(message, country), called, to, country)


def _message(file: str) -> Scan:
    name = "stdin" if file == "-" else file
    try:
        message = scan(read_raw(file))
    except OSError as error:
        raise ConfigError(name, f"cannot be read: {error.strerror or error}") from None
    except ParseError as error:
        raise ConfigError(name, f"{error.place}: {error.reason}, at byte {error.offset}") from None
    if message.method != "INVITE":
        raise ConfigError(name, f"is no INVITE but a {message.method or 'response'}")
    return message


def _credentials(args: argparse.Namespace, when: float) -> dict[str, Credential | Unreachable]:
    """What each URL serves is worth. Raises ConfigError naming the file."""
    anchors = tuple(_certificates(args.trust_anchor))
    signers = (*anchors, *_certificates(args.crl_signer))
    crls = []
    for path in args.crl:
        try:
            crls.append(read_crl(_read(path, CRL_BYTES_MAX), signers, when))
        except CertificateError as error:
            raise ConfigError(str(path), str(error)) from None
    store = TrustStore(anchors, tuple(crls))
    credentials: dict[str, Credential | Unreachable] = {}
    for url, path in args.x5u:
        served = _read(path, CHAIN_BYTES_MAX)
        try:
            credentials[url] = store.assess(read_chain(served), when)
        except CertificateError as error:
            credentials[url] = refused(f"what the URL serves {error}")
    return credentials


def _certificates(paths: Iterable[Path]) -> Iterable[Any]:
    for path in paths:
        try:
            yield from read_anchors(_read(path, ANCHORS_BYTES_MAX))
        except CertificateError as error:
            raise ConfigError(str(path), str(error)) from None


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most + 1)  # a byte too many is enough for a reader to say so
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror or error}") from None


def describe(verification: Verification, call: SignalledCall, when: float) -> dict[str, Any]:
    """A verification as a JSON object."""
    return {
        "result": "accept" if verification.valid else "reject",
        **_failure(verification.failure),
        "why": verification.why,
        "attestation": verification.attestation,
        "spc": verification.spc,
        "origid": verification.origid,
        "psap_callback": verification.psap_callback,
        "time": rfc3339(when),
        "call": {
            "calling": list(call.calling),
            "called": call.called,
            "to": call.to,
            "date": None if call.date is None else rfc3339(call.date),
        },
        "rows": [
            {"ppt": row.ppt, "url": row.url, **_failure(row.failure), "why": row.why, "spc": row.spc}
            for row in verification.rows
        ],
    }


def _failure(failure: Failure | None) -> dict[str, Any]:
    if failure is None:
        return {"class": None, "code": None, "phrase": None}
    return {"class": failure.value, **RESPONSES[failure]._asdict()}
