"""What documents of trust amount to: trust lists, files of anchors, revocation lists; and which is newer than which.

Blocks for as long as signatures and long lists take to read; for a thread. Fetches and keeps nothing.
"""

import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from agent.identity.certificate import Certificate, CertificateError, read_anchors, read_chain
from agent.identity.crl import CRL_BYTES_MAX, Crl, read_crl
from agent.identity.trust import TrustStore
from agent.identity.trust_list import TrustList, read_trust_list
from agent.model import ConfigError
from agent.stir.settings import IdentitySettings, is_url

FILE_BYTES_MAX: Final = CRL_BYTES_MAX
"""The largest of all these documents."""

Value = TrustList | Crl

Stamp = tuple[int, int, int]
"""What tells a file that was changed: when, how long, which."""


class Kind(StrEnum):
    """Of a document of trust."""

    LIST = "trust list"
    CRL = "revocation list"


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it came. `signer` is what its x5u named, PEM, where that had to be fetched."""

    source: str
    body: bytes
    signer: bytes = b""


@dataclass(frozen=True, slots=True)
class Judges:
    """By whose signatures documents are taken, and who helps to find a path to an anchor."""

    pa_roots: tuple[Certificate, ...] = ()
    crl_signers: tuple[Certificate, ...] = ()
    intermediates: tuple[Certificate, ...] = ()


def load_judges(settings: IdentitySettings) -> Judges:
    """Read the files that settings name. Raises ConfigError naming the field."""
    roots = _certificates(settings.pa_roots, "pa_roots")
    signers = _certificates(settings.crl_signers, "crl_signers") or roots
    return Judges(roots, signers, _certificates(settings.intermediates, "intermediates"))


def judge(
    kind: Kind, document: Document, judges: Judges, when: float, before: Value | None, *, again: bool = False
) -> Value:
    """What a document amounts to; it must be no older than `before`. Raises CertificateError.

    `again`: it was taken before, at `when` (epoch seconds), and is taken although it may have expired since.
    """
    if kind is Kind.LIST:
        return _judge_list(document, judges, when, before, again)
    crl = read_crl(document.body, judges.crl_signers, when)
    if isinstance(before, Crl) and (crl.this_update, crl.number) < (before.this_update, before.number):
        raise CertificateError("is older than the one in use")
    return crl


def _judge_list(document: Document, judges: Judges, when: float, before: Value | None, again: bool) -> TrustList:
    if is_pem(document.body):
        if is_url(document.source):
            raise CertificateError("is not signed: certificates without a signature are taken from a file only")
        return TrustList(read_anchors(document.body), 0, None)
    if not judges.pa_roots:
        raise CertificateError("is not PEM, and pa_roots does not say who signs trust lists")
    return read_trust_list(
        document.body,
        judges.pa_roots,
        when,
        before.sequence if isinstance(before, TrustList) else 0,
        signers=read_chain(document.signer).certificates if document.signer else (),
        expired_too=again,
    )


def is_pem(body: bytes) -> bool:
    """Whether these are certificates without a signature over all of them."""
    return b"-----BEGIN CERTIFICATE-----" in body


def build_store(lists: Iterable[TrustList], crls: Sequence[Crl], judges: Judges) -> TrustStore:
    """One store of several lists: whoever is on one of them is trusted. It expires with the first of them."""
    there = list(lists)
    ends = [found.expires for found in there if found.expires is not None]
    return TrustStore(
        anchors=tuple(dict.fromkeys(anchor for found in there for anchor in found.anchors)),
        crls=tuple(crls),
        sequence=max((found.sequence for found in there), default=0),
        expires=min(ends, default=None),
        intermediates=judges.intermediates,
    )


def stamp_of(path: Path) -> Stamp:
    """Raises OSError, for what is no regular file too: opening it could wait for ever."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "is no file")
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_document(path: Path) -> bytes:
    """The whole file. Raises OSError."""
    stamp_of(path)
    with path.open("rb") as file:
        return file.read(FILE_BYTES_MAX + 1)  # one too many is refused by whoever reads it


def _certificates(path: Path | None, field: str) -> tuple[Certificate, ...]:
    if path is None:
        return ()
    try:
        return read_anchors(read_document(path))
    except OSError as error:
        raise ConfigError(field, f"{path}: {error.strerror}") from None
    except CertificateError as error:
        raise ConfigError(field, f"{path} {error}") from None
