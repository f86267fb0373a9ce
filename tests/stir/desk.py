"""A trust keeper at work: its clocks, its log, the server of its lists, and lists to give it."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.trust import TrustStore
from agent.ops.log import LineWriter, Log
from agent.stir.keeper import TrustKeeper
from agent.stir.lab import make_crl, make_trust_list
from agent.stir.settings import IdentitySettings
from tests.fakes.certificate_server import CertificateServer, Handler, serving
from tests.fakes.waiting import until
from tests.stir.fetching import HTTPS, Clocks, Names, laboratory

DAY = 86400.0
LIST, CRL = "/api/v1/ca-list", "/download/v1/crl"


class Desk:
    """A trust keeper, what it has published, and what it has logged."""

    def __init__(self, tmp_path: Path, server: CertificateServer | None = None, **settings: Any) -> None:
        lab = laboratory()
        files = {
            "pa-root.pem": lab.pa_root.pem,
            "crl-signer.pem": lab.crl_signer.pem,
            "https-ca.pem": HTTPS.certificate,
        }
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        values = {
            "ports": (server.port if server else 443,),
            "allow_addresses": ("127.0.0.0/8",),
            "https_ca": tmp_path / "https-ca.pem",
            "pa_roots": tmp_path / "pa-root.pem",
            "crl_signers": tmp_path / "crl-signer.pem",
            "directory": tmp_path / "state",
            **settings,
        }
        self.clocks = Clocks()
        self.stores: list[TrustStore] = []
        self.logged = tmp_path / "log"
        self.settings = IdentitySettings(**values)
        self.keeper = self.another()

    def another(self) -> TrustKeeper:
        """A keeper with the same settings, as after a restart."""
        clocks = self.clocks
        log = Log(LineWriter(os.open(self.logged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)))
        names = Names()
        return TrustKeeper(
            self.settings, self._adopt, log, names.look_up, lambda: clocks.monotonic, lambda: clocks.wall
        )

    async def _adopt(self, store: TrustStore) -> None:
        self.stores.append(store)

    async def restart(self) -> None:
        await self.keeper.stop(5.0)
        self.keeper = self.another()
        await self.keeper.start()

    async def looks(self) -> None:
        """Wait until everything that is due has been looked at."""
        before = self.count("looks")
        await until(lambda: self.count("looks") > before, 10.0)
        await asyncio.sleep(0)

    def count(self, name: str) -> int:
        return self.keeper.counters()[f"trust_{name}"]

    @property
    def words(self) -> str:
        return self.keeper.health()[1]

    def healthy(self) -> bool:
        return self.keeper.health()[0]

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.logged.read_text().splitlines()]


@asynccontextmanager
async def desk(tmp_path: Path, **settings: Any) -> AsyncIterator[Desk]:
    """A running keeper that has no server."""
    made = Desk(tmp_path, **settings)
    await made.keeper.start()
    try:
        yield made
    finally:
        await made.keeper.stop(5.0)
    assert not [line for line in made.log if line["event"] == "fault"]


@asynccontextmanager
async def administrator(
    tmp_path: Path, pages: Mapping[str, Handler], lists: tuple[str, ...] = (LIST,), crls: tuple[str, ...] = (CRL,)
) -> AsyncIterator[tuple[Desk, CertificateServer]]:
    """A running keeper that fetches its lists from a server."""
    async with serving(pages, HTTPS) as server:
        urls = {"trust_lists": tuple(map(server.url, lists)), "crls": tuple(map(server.url, crls))}
        made = Desk(tmp_path, server, **urls)
        await made.keeper.start()
        try:
            yield made, server
        finally:
            await made.keeper.stop(5.0)
        assert not [line for line in made.log if line["event"] == "fault"]


def trust_list(sequence: int = 1, *, expires: float = 0.0, anchors: int = 1) -> bytes:
    lab = laboratory()
    roots = [lab.root.pem, lab.foreign_root.pem][:anchors]
    return make_trust_list(lab.pa_signer, roots, sequence, expires or Clocks().wall + 30 * DAY)


def revocations(number: int = 1, *, age: float = 60.0, left: float = 30 * DAY, revoked: int = 1) -> bytes:
    lab, now = laboratory(), Clocks().wall
    entries = [(lab.intermediate.certificate.subject, n + 1) for n in range(revoked)]
    return make_crl(lab.crl_signer, entries, now - age, now + left, number).public_bytes(Encoding.DER)


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def run(main: Callable[[], Any]) -> None:
    asyncio.run(main())
