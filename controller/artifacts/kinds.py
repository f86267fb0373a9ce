"""The kinds of lists: what each must be to be handed out, and what it says of itself.

Pure: takes bytes. A list that an agent would not take is refused here, with the reason, when it is imported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from agent.identity.certificate import Certificate, CertificateError, read_anchors
from agent.identity.crl import CRL_BYTES_MAX, read_crl
from agent.identity.trust_list import TRUST_LIST_BYTES_MAX, read_trust_list
from agent.model import ConfigError
from agent.numbers.listfile import FORMAT_VERSION as DNO_FORMAT
from agent.numbers.listfile import read_list
from controller.errors import Conflict, Invalid

DNO: Final = "dno"
TRUST_LIST: Final = "trust-list"
CRL: Final = "crl"

DNO_BYTES_MAX: Final = 256 << 20
"""The largest commercial list has 18 MB, 5 million exact numbers have 40."""

ORDER: Final = "sequence"
"""Among the counts of a list: its issuer's own number, which must not go down."""

_PEM: Final = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Found:
    """What a list says of itself. `not_after` is epoch seconds, None: it does not end."""

    format_version: int
    not_after: float | None
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kind:
    """`bytes_max` bounds an import. `read` raises ConfigError or CertificateError."""

    bytes_max: int
    read: Callable[[memoryview, Sequence[Certificate], float], Found]
    signed: bool  # by its issuer: needs the certificates that may sign


def kind_of(name: str) -> Kind:
    """Raises Invalid."""
    kind = KINDS.get(name)
    if kind is None:
        raise Invalid("kind", f"must be one of {', '.join(KINDS)}")
    return kind


def examine(kind: str, data: memoryview, signers: Sequence[Certificate], when: float) -> Found:
    """Check a list as agents will. `signers` may sign trust lists and CRLs. Raises Invalid."""
    known = kind_of(kind)
    if len(data) > known.bytes_max:
        raise Invalid("data", f"is larger than {known.bytes_max >> 20} MiB")
    if known.signed and not signers and not _is_anchors(kind, data):
        raise Invalid("kind", f"a {kind} is taken with a signature only: [artifacts] signers names no certificates")
    try:
        return known.read(data, signers, when)
    except ConfigError as error:
        raise Invalid("data", error.reason) from None
    except CertificateError as error:
        raise Invalid("data", str(error)) from None


def check_order(kind: str, name: str, found: Found, latest: Mapping[str, int]) -> None:
    """Its issuer numbers a signed list: an older one than we have is a replay. Raises Conflict."""
    ours, theirs = latest.get(ORDER), found.counts.get(ORDER)
    if ours is not None and theirs is not None and theirs < ours:
        raise Conflict(f"{kind} {name}: its sequence is {theirs}, and {ours} is here already")


def _dno(data: memoryview, _signers: Sequence[Certificate], _when: float) -> Found:
    dno = read_list(data, "")
    try:
        manifest = dno.manifest
        not_after = datetime.fromisoformat(manifest.not_after).timestamp() if manifest.not_after else None
        return Found(DNO_FORMAT, not_after, dict(manifest.counts))
    finally:
        dno.release()


def _trust_list(data: memoryview, signers: Sequence[Certificate], when: float) -> Found:
    document = bytes(data)
    if _is_anchors(TRUST_LIST, data):  # certificates on the operator's own word
        return Found(1, None, {"authorities": len(read_anchors(document))})
    found = read_trust_list(document, signers, when)
    return Found(1, found.expires, {"authorities": len(found.anchors), ORDER: found.sequence})


def _crl(data: memoryview, signers: Sequence[Certificate], when: float) -> Found:
    found = read_crl(bytes(data), signers, when)
    counts = {"revoked": len(found.revoked)} | ({ORDER: found.number} if 0 <= found.number < 1 << 53 else {})
    return Found(1, found.next_update, counts)


def _is_anchors(kind: str, data: memoryview) -> bool:
    return kind == TRUST_LIST and bytes(data[: 4 << 10]).lstrip().startswith(_PEM)


KINDS: Final[Mapping[str, Kind]] = {
    DNO: Kind(DNO_BYTES_MAX, _dno, signed=False),
    TRUST_LIST: Kind(TRUST_LIST_BYTES_MAX, _trust_list, signed=True),
    CRL: Kind(CRL_BYTES_MAX, _crl, signed=True),
}
