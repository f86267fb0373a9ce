"""Trust lists and revocation lists that a controller gave: what they amount to on this host, and how old they are.

The controller has checked who signed a document, and its own signature over the bytes has been checked when they came.
Where agent.toml says who may sign (`pa_roots`, `crl_signers`), the document must bear that signature, too; then a
controller in wrong hands can leave an authority out, and bring in none. Blocks; for a thread. Decides nothing of what
is done about what is wrong.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.identity.certificate import CertificateError, read_anchors
from agent.identity.crl import Crl, read_crl, vouched_crl
from agent.identity.trust_list import TrustList, read_trust_list, vouched_trust_list
from agent.stir.lists import FILE_BYTES_MAX, Judges, Kind, Value, is_pem
from agent.stir.settings import IdentitySettings

KINDS: Final[Mapping[str, Kind]] = {"trust-list": Kind.LIST, "crl": Kind.CRL}
"""As controllers call them."""


@dataclass(frozen=True, slots=True)
class GivenDocument:
    """One list of an offer, in place on disk. `number` is its place among the artifacts of the offer."""

    number: int
    kind: Kind
    name: str
    generation: int
    sha256: bytes
    path: Path

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of the controller, generation {self.generation}"


@dataclass(slots=True)
class Given:
    """What became of it. `vouched` is when the controller last stood for it, epoch seconds; None: nobody knows.

    `value` None: it is not used, and `trouble` says why.
    """

    document: GivenDocument
    value: Value | None = None
    vouched: float | None = None
    trouble: str = ""

    def age(self, when: float) -> float:
        """Seconds since the controller last stood for it."""
        return 0.0 if self.vouched is None else max(0.0, when - self.vouched)

    def alarm(self, when: float, max_age: float) -> str:
        """What somebody must look at, "" if nothing."""
        if self.value is None:
            return f"{self.document}: not used: {self.trouble}"
        end = self.value.expires if isinstance(self.value, TrustList) else self.value.next_update
        if end is not None and end < when:
            return f"{self.document}: past its end, and still in use"
        if self.age(when) > max_age:
            return f"{self.document}: not confirmed for {self.age(when) / 3600:.0f} h"
        return ""


def overridden(settings: IdentitySettings, kind: Kind) -> str:
    """The setting of agent.toml that takes the place of the controller's lists of this kind; "" none does."""
    if kind is Kind.LIST:
        return "trust_lists" if settings.trust_lists else ""
    return "crls" if settings.crls else ""


def read_given(document: GivenDocument, judges: Judges) -> tuple[Value, float]:
    """What it amounts to, and when the controller last stood for it. Raises CertificateError, OSError."""
    vouched = document.path.stat().st_mtime
    with document.path.open("rb") as file:
        body = file.read(FILE_BYTES_MAX + 1)
    if hashlib.sha256(body).digest() != document.sha256:
        raise CertificateError("is damaged on disk")
    if document.kind is Kind.CRL:
        return _crl(body, judges), vouched
    return _trust_list(body, judges, vouched), vouched


def _crl(body: bytes, judges: Judges) -> Crl:
    crl = vouched_crl(body)
    # Who has signed it is all that is asked here, and that does not change with the clock of this host.
    return read_crl(body, judges.crl_signers, crl.this_update) if judges.crl_signers else crl


def _trust_list(body: bytes, judges: Judges, came: float) -> TrustList:
    if is_pem(body):
        if judges.pa_roots:
            raise CertificateError("is not signed, and pa_roots of this host says who signs trust lists")
        return TrustList(read_anchors(body), 0, None)
    if not judges.pa_roots:
        return vouched_trust_list(body)
    return read_trust_list(body, judges.pa_roots, came, expired_too=True)


def values(given: Sequence[Given]) -> tuple[list[TrustList], list[Crl]]:
    """What of them is good, by kind."""
    found = [one.value for one in given]
    return [v for v in found if isinstance(v, TrustList)], [v for v in found if isinstance(v, Crl)]
