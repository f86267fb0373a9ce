"""The words of caller-ID authentication: what an Identity is worth, what a certificate amounts to.

Imports nothing of ours and performs nothing. A verification either has no failure and names who vouches,
or it names its failure and why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:  # screening knows these words, and must not load a cryptographic library for them
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey


class Failure(StrEnum):
    """Why no Identity of a call could be relied on; the keys of the policy's table (RFC 8224 6.2.2)."""

    MISSING = "missing"  # no Identity row with a PASSporT type that we verify
    STALE = "stale"  # iat, or Date, outside the freshness window
    INFO = "info"  # `info` is absent, differs from x5u, or is a URL that the rules do not let us fetch
    UNREACHABLE = "unreachable"  # the certificate could not be fetched in time
    CREDENTIAL = "credential"  # fetched, but not one to rely on: untrusted, expired, revoked, not of SHAKEN's profile
    INVALID = "invalid"  # malformed, unsupported or badly signed
    MISMATCH = "mismatch"  # a good token of another call: orig or dest are not those of this one
    REPLAYED = "replayed"  # a good token of this call's numbers that another call has already shown


class Response(NamedTuple):
    """The SIP code and phrase that RFC 8224 6.2.2 gives a failure, and RFC 9410 reports."""

    code: int
    phrase: str


RESPONSES: Final[Mapping[Failure, Response]] = {
    Failure.MISSING: Response(428, "Use Identity Header"),
    Failure.STALE: Response(403, "Stale Date"),
    Failure.INFO: Response(436, "Bad Identity Info"),
    Failure.UNREACHABLE: Response(436, "Bad Identity Info"),
    Failure.CREDENTIAL: Response(437, "Unsupported Credential"),
    Failure.INVALID: Response(438, "Invalid Identity Header"),
    Failure.MISMATCH: Response(438, "Invalid Identity Header"),
    Failure.REPLAYED: Response(438, "Invalid Identity Header"),
}


class Verstat(StrEnum):
    """What the called party's network is told (3GPP TS 24.229 7.2A.20)."""

    PASSED = "TN-Validation-Passed"
    FAILED = "TN-Validation-Failed"
    NONE = "No-TN-Validation"


@dataclass(frozen=True, slots=True)
class Credential:
    """What a fetched certificate chain amounts to under one trust list and CRL.

    `fault` is "" for one to rely on, else says why not ("expired on 2026-01-31"); then `public_key` may be None. `spc`
    is the Service Provider Code of its TNAuthList, "" if it has none. Validity in epoch seconds, both included: it
    is judged at verification, not when the certificate was read. `mandatory`, `permitted` and `excluded` are its
    JWTClaimConstraints (RFC 8226 8, RFC 9118). `sha256` is that of the leaf's DER, hexadecimal.
    """

    public_key: "EllipticCurvePublicKey | None"
    spc: str
    issuer: str
    not_before: float
    not_after: float
    sha256: str
    fault: str = ""
    mandatory: tuple[str, ...] = ()
    permitted: tuple[tuple[str, tuple[object, ...]], ...] = ()
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreachable:
    """There is no certificate, and why: "no answer within 1.0 s", "404 Not Found"."""

    why: str


@dataclass(frozen=True, slots=True)
class SignalledCall:
    """What a PASSporT is compared with; taken from the signalling, never from a token (RFC 8224 6.2.4).

    Numbers are canonical digits (RFC 8224 8.3) or "" where there is none; `calling` holds the number or numbers of
    which orig must be one, `called` the Request-URI's, `to` the To header's. `call_id` and `from_tag` tell a copy of
    this call from another call that shows the same token. `psap_callback`: Priority says so (RFC 7090).
    """

    calling: tuple[str, ...]
    called: str
    to: str
    call_id: bytes
    from_tag: bytes
    date: float | None = None
    psap_callback: bool = False


class RowCheck(NamedTuple):
    """What became of one Identity row. `ppt` as stated; `failure` None: verified."""

    ppt: str
    url: str
    failure: Failure | None
    why: str
    spc: str = ""


class Verification(NamedTuple):
    """What the Identity rows of one call are worth together.

    `failure` None: a SHAKEN PASSporT of this call verified, and `attestation` ("A", "B", "C"), `spc` and `origid` are
    vouched for by it. Otherwise those three are what a row stated at best ("" where none did), and prove nothing.
    `psap_callback`: a verified rph PASSporT says that an emergency service calls back (RFC 9027).
    """

    failure: Failure | None
    why: str
    attestation: str = ""
    spc: str = ""
    origid: str = ""
    rows: tuple[RowCheck, ...] = ()
    psap_callback: bool = False

    @property
    def valid(self) -> bool:
        """Whether the calling number is authenticated."""
        return self.failure is None


NOT_SIGNED: Final = Verification(Failure.MISSING, "no Identity header")
