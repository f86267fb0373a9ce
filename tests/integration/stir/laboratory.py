"""A certificate world on loopback that other programs may fetch from, and our own signing and verifying in it.

Certificates are served by https at an address of 127.0.0.0/8 that is drawn for each test, at port 8443: other ports are
none for an x5u (ATIS-1000074 5.3.1).
"""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from agent.identity.certificate import read_anchors, read_chain
from agent.identity.model import SignalledCall, Verification
from agent.identity.replay import ReplayCache
from agent.identity.signing import Signer
from agent.identity.trust import TrustStore
from agent.identity.verification import Verifier, VerifierSettings
from agent.stir.lab import Laboratory, make_laboratory
from agent.stir.lab_certificates import DAY, Holder, root_draft, self_signed, tls_draft
from tests.fakes.certificate_server import CertificateServer, page
from tests.fakes.certificates import Signed

PORT: Final = 8443
CODE: Final = "1234"
ORIGID: Final = "8f4c1f5e-3f0a-4a57-9b0e-0c5f8d1a2b3c"
CALLING: Final = "12015550123"
CALLED: Final = "13035550199"


@dataclass
class Lab:
    """Files of keys and certificates in a folder, as an operator has them."""

    folder: Path
    host: str
    made: Laboratory
    https_root: Holder

    def holder(self, name: str) -> Holder:
        """signer, expired, foreign or revoked."""
        holder = getattr(self.made, name)
        assert isinstance(holder, Holder)
        return holder

    def url(self, name: str) -> str:
        return f"https://{self.host}:{PORT}/{name}.pem"

    def file(self, name: str) -> Path:
        return self.folder / name

    def sign(
        self,
        calling: str = CALLING,
        called: str = CALLED,
        attest: str = "A",
        *,
        age: float = 0.0,
        url: str = "signer",
        key: str = "",
    ) -> str:
        """An Identity of ours, `age` seconds old; `url` and `key` name a holder (default: that of the URL)."""
        signer = Signer(self.holder(key or url).key, self.url(url))
        return signer.sign(calling, (called,), attest, ORIGID, int(time.time() - age)).decode()

    @cached_property
    def _store(self) -> TrustStore:
        return TrustStore(read_anchors(self.made.root.pem))

    def verify(self, *values: str, calling: str = CALLING, called: str = CALLED) -> Verification:
        """What these rows are worth to us."""
        return self.judge([value.encode() for value in values], SignalledCall((calling,), called, called, b"1", b"1"))

    def judge(self, values: Sequence[bytes], call: SignalledCall) -> Verification:
        verifier, when = Verifier(VerifierSettings(), ReplayCache()), time.time()
        claimed = verifier.read(values)
        names = {self.url(name): name for name in ("signer", "expired", "foreign")}
        found = {
            url: self._store.assess(read_chain(self.file(f"{names[url]}.pem").read_bytes()), when)
            for url in claimed.urls
        }
        return verifier.judge(claimed, found, call, when)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[CertificateServer]:
        """The certificates at their URLs."""
        own = self.https_root.issue(tls_draft([self.host], time.time(), DAY))
        pages = {
            f"/{name}.pem": page(self.file(f"{name}.pem").read_bytes()) for name in ("signer", "expired", "foreign")
        }
        server = CertificateServer(Signed(own.pem, own.key_pem), pages)
        await server.start(PORT, self.host)
        try:
            yield server
        finally:
            await server.stop()


def make_lab(folder: Path) -> Lab:
    """A new one."""
    when = time.time()
    made = make_laboratory(CODE, when, DAY)
    https_root = self_signed(root_draft("HTTPS Laboratory Root CA", when))
    host = "127." + ".".join(f"{secrets.randbelow(200) + 10}" for _ in range(3))
    lab = Lab(folder, host, made, https_root)
    for name in ("root", "intermediate", "signer", "expired", "foreign", "revoked"):
        (folder / f"{name}.pem").write_bytes(lab.holder(name).pem)
        (folder / f"{name}.key").write_bytes(lab.holder(name).key_pem)
    # A signer serves the certificate of its authority too (RFC 8226 9).
    for name in ("signer", "expired"):
        (folder / f"{name}.pem").write_bytes(lab.holder(name).pem + made.intermediate.pem)
    (folder / "https-root.pem").write_bytes(https_root.pem)
    return lab
