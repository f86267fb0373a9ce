"""`sbc-agent identity certificate`: what a certificate or chain says, and where it departs from the SHAKEN profile."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from agent.cli.output import BAD_INPUT, OK, complain, print_json, print_table
from agent.identity.certificate import (
    ANCHORS_BYTES_MAX,
    CHAIN_BYTES_MAX,
    Certificate,
    CertificateError,
    Chain,
    read_anchors,
    read_chain,
)
from agent.identity.profile import Severity, lint
from agent.identity.profile_rules import role_of
from agent.identity.tnauthlist import NumberRange
from agent.identity.trust import TrustStore
from agent.model import ConfigError
from agent.numbers.listfile import rfc3339

_TEXT = """\
Shows every certificate in FILE: whose it is, who issued it, which service provider code or numbers it speaks for,
until when it holds, which claims it constrains, and every rule of the SHAKEN profile (ATIS-1000080 and the certificate
policy) that it breaks: an error if the rule was in force when it was issued, else a notice. With --trust-anchor the
chain is assessed as for a call, except that no revocation list is asked."""

_EPILOG = """\
examples:
  sbc-agent identity certificate signer.pem
  curl -s https://certs.example.net/sti/1234.pem | sbc-agent identity certificate - --trust-anchor roots.pem

exit codes: 0 nothing is wrong; 1 a certificate cannot be read, is not valid now or has an error, or the chain is not
trusted; 2 wrong usage"""

# Numbers of a delegate certificate, and values of a constraint, that a screen shows; --json has them all.
_SHOWN = 20


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "certificate",
        help="show a certificate or chain, and lint it against the SHAKEN profile",
        description=_TEXT,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help='PEM or DER; "-" reads standard input')
    parser.add_argument(
        "--trust-anchor",
        metavar="PEM",
        type=Path,
        action="append",
        default=[],
        help="roots to assess the chain against; may be given more than once",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(identity_run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 when a file cannot be used or what it holds is not as it should be."""
    when = time.time()
    try:
        chain = _chain(args.file)
        anchors = tuple([anchor for path in args.trust_anchor for anchor in _anchors(path)])
    except ConfigError as error:
        complain(str(error))
        return BAD_INPUT
    certificates = [_describe(certificate, when) for certificate in chain.certificates]
    fault = _fault(chain, anchors, when) if anchors else None
    if args.json:
        print_json({"certificates": certificates, "trusted": None if fault is None else not fault, "fault": fault})
    else:
        for described in certificates:
            _print(described)
        if fault is not None:
            print_table("", ["chain", f"not trusted: {fault}" if fault else "trusted"], [])
    sound = all(described["sound"] for described in certificates)
    return OK if sound and not fault else BAD_INPUT


def _chain(file: str) -> Chain:
    try:
        data = sys.stdin.buffer.read(CHAIN_BYTES_MAX + 1) if file == "-" else _read(Path(file), CHAIN_BYTES_MAX)
        return read_chain(data)
    except CertificateError as error:
        raise ConfigError(file, str(error)) from None


def _anchors(path: Path) -> tuple[Certificate, ...]:
    try:
        return read_anchors(_read(path, ANCHORS_BYTES_MAX))
    except CertificateError as error:
        raise ConfigError(str(path), str(error)) from None


def _read(path: Path, most: int) -> bytes:
    """At most one byte more than `most`, so that who reads it sees that it is too much. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None


def _fault(chain: Chain, anchors: tuple[Certificate, ...], when: float) -> str:
    credential = TrustStore(anchors).assess(chain, when)
    if credential.fault:
        return credential.fault
    return _validity(credential.not_before, credential.not_after, when)


def _validity(not_before: float, not_after: float, when: float) -> str:
    if when < not_before:
        return "not valid yet"
    return "" if when <= not_after else "expired"


def _describe(certificate: Certificate, when: float) -> dict[str, Any]:
    held, constraints = certificate.tn_auth_list, certificate.constraints
    findings = lint(certificate)
    validity = _validity(certificate.not_before, certificate.not_after, when)
    return {
        "role": str(role_of(certificate).name).lower(),
        "subject": certificate.subject.text,
        "issuer": certificate.issuer.text,
        "serial": f"{certificate.serial:x}",
        "codes": list(held.codes) if held is not None else [],
        "numbers": [_numbers(numbers) for numbers in held.numbers] if held is not None else [],
        "not_before": rfc3339(certificate.not_before),
        "not_after": rfc3339(certificate.not_after),
        "validity": validity or "valid",
        "key": _key(certificate),
        "sha256": certificate.sha256,
        "mandatory_claims": list(constraints.mandatory),
        "permitted_values": [{"claim": claim, "values": list(values)} for claim, values in constraints.permitted],
        "excluded_claims": list(constraints.excluded),
        "fault": certificate.fault,
        "findings": [finding._asdict() for finding in findings],
        "sound": not (validity or certificate.fault or any(f.severity is Severity.ERROR for f in findings)),
    }


def _numbers(numbers: NumberRange) -> str:
    return numbers.start if numbers.count == 1 else f"{numbers.start}+{numbers.count}"


def _key(certificate: Certificate) -> str:
    key = certificate.public_key
    if key is None:
        return "of no kind that is accepted"
    return f"EC {key.curve.name}" if isinstance(key, EllipticCurvePublicKey) else f"RSA {key.key_size}"


def _print(described: dict[str, Any]) -> None:
    rows = [[name, described[name]] for name in ("issuer", "serial")]
    rows += [["service provider code", code] for code in described["codes"]]
    if numbers := described["numbers"]:
        rows.append(["numbers", _some(numbers)])
    rows.append(["validity", f"{described['not_before']} to {described['not_after']}, {described['validity']}"])
    rows += [["key", described["key"]], ["SHA-256", described["sha256"]]]
    rows += [["must have claims", _some(claims)] for claims in [described["mandatory_claims"]] if claims]
    rows += [[f"may have {item['claim']}", _some(item["values"])] for item in described["permitted_values"]]
    rows += [["must not have claims", _some(claims)] for claims in [described["excluded_claims"]] if claims]
    rows += [["fault", fault] for fault in [described["fault"]] if fault]
    rows += [[finding["severity"], f"{finding['code']}: {finding['text']}"] for finding in described["findings"]]
    print_table("", [described["role"], described["subject"]], rows)
    print()


def _some(values: list[str]) -> str:
    left = len(values) - _SHOWN
    return ", ".join(values[:_SHOWN]) + (f" and {left} more" if left > 0 else "")
