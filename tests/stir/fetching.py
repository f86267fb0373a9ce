"""What tests of fetching share: rules for loopback, a name service, clocks, certificates, a source that runs."""

import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.certificate import read_certificate
from agent.identity.crl import read_crl
from agent.identity.model import Credential, Unreachable
from agent.identity.trust import TrustStore
from agent.stir.addresses import read_network
from agent.stir.fetch import Fetcher, FetchRules
from agent.stir.lab import Laboratory, make_laboratory
from agent.stir.lab_certificates import Holder
from agent.stir.settings import IdentitySettings
from agent.stir.source import CertificateSource
from tests.fakes.certificate_server import HOST, CertificateServer, Handler, serving
from tests.fakes.certificates import Authority

LOOPBACK: Final = (read_network("127.0.0.0/8"), read_network("::1"))
BODY_BYTES: Final = 65536


class Names:
    """A name service: host to addresses. Counts what it is asked."""

    def __init__(self, table: Mapping[str, Sequence[str]] | None = None) -> None:
        self.table = dict(table or {HOST: ["127.0.0.1"]})
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.look_up(host, port)

    def look_up(self, host: str, port: int) -> list[str]:
        if host not in self.table:
            raise OSError(-2, "Name or service not known")
        return list(self.table[host])


def client_context(authority: Authority) -> ssl.SSLContext:
    """TLS that trusts this authority alone."""
    return ssl.create_default_context(cadata=authority.certificate.decode())


def fetcher(
    server: CertificateServer | None,
    authority: Authority,
    *,
    seconds: float = 20.0,
    connect_seconds: float = 10.0,
    body_bytes: int = BODY_BYTES,
    allowed: Sequence[object] = LOOPBACK,
    ports: Sequence[int] = (),
) -> Fetcher:
    """One that may fetch from `server`."""
    rules = FetchRules(
        ports=(*ports, *((server.port,) if server else ())),
        allowed=tuple(allowed),  # type: ignore[arg-type]
        seconds=seconds,
        connect_seconds=connect_seconds,
        body_bytes=body_bytes,
    )
    return Fetcher(rules, client_context(authority))


@dataclass
class Clocks:
    """The monotonic clock and the wall clock of a test; both move when it says so."""

    monotonic: float = 1000.0
    wall: float = field(default_factory=time.time)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.monotonic += seconds
        self.wall += seconds


@cache
def laboratory() -> Laboratory:
    """A certificate world of one year from now."""
    return make_laboratory("1234", time.time(), 365 * 86400.0)


def chain(holder: Holder) -> bytes:
    """What an x5u serves of a signer of the laboratory."""
    return holder.pem + laboratory().intermediate.pem


def trust(*, crl: bool = True) -> TrustStore:
    """The trust store of the laboratory."""
    lab = laboratory()
    signer = read_certificate(lab.crl_signer.der)
    crls = (read_crl(lab.crl.public_bytes(Encoding.DER), [signer], time.time()),) if crl else ()
    return TrustStore((read_certificate(lab.root.der),), crls)


class Bench:
    """A certificate source, its server and its clocks. What went wrong inside is in `faults`."""

    def __init__(self, server: CertificateServer, directory: Path, names: Names, **settings: Any) -> None:
        ca = directory / "https-ca.pem"
        ca.write_bytes(HTTPS.certificate)
        values = {"ports": (server.port,), "allow_addresses": ("127.0.0.0/8",), "https_ca": ca, **settings}
        self.server = server
        self.names = names
        self.clocks = Clocks()
        self.faults: list[Exception] = []
        self.settings = IdentitySettings(directory=directory / "identity", **values)
        self.source = self.another()

    def another(self) -> CertificateSource:
        """A source with the same settings, as after a restart."""
        clocks = self.clocks
        return CertificateSource(
            self.settings, self.faults.append, self.names.look_up, lambda: clocks.monotonic, lambda: clocks.wall
        )

    async def ask(self, path: str = "/1.pem", within: float = 20.0) -> Credential | Unreachable:
        """The answer for one URL of the server: at once, or by waiting."""
        url = self.server.url(path)
        return (self.source.peek([url]) or await self.source.obtain([url], within))[url]

    def count(self, name: str) -> int:
        """A counter, without the part that all of them begin with."""
        return self.source.counters()[f"certificates_{name}"]


HTTPS: Final = Authority("https authority")


@asynccontextmanager
async def bench(
    pages: Mapping[str, Handler], directory: Path, names: Names | None = None, **settings: Any
) -> AsyncIterator[Bench]:
    """A running source that trusts the laboratory, and a server with these pages. Nothing may have failed in it."""
    async with serving(pages, HTTPS) as server:
        made = Bench(server, directory, names or Names(), **settings)
        await made.source.start()
        await made.source.adopt(trust())
        try:
            yield made
        finally:
            await made.source.stop(5.0)
        assert made.faults == []
