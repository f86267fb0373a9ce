"""What tests of fetching share: rules for loopback, a name service that the test writes."""

import ssl
from collections.abc import Mapping, Sequence
from typing import Final

from agent.stir.addresses import read_network
from agent.stir.fetch import Fetcher, FetchRules
from tests.fakes.certificate_server import HOST, CertificateServer
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
