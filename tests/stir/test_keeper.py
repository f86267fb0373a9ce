"""Trust lists and revocation lists: taken when good, kept when what follows is not, alarmed when they grow old."""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.certificate import read_chain
from agent.identity.trust import TrustStore
from agent.model import ConfigError
from agent.ops.log import LineWriter, Log
from agent.stir.artifact import FILE_SECONDS, RETRY_SECONDS
from agent.stir.keeper import NOBODY, TrustKeeper
from agent.stir.lab import make_crl, make_trust_list, sign_jws
from agent.stir.lists import load_judges
from agent.stir.settings import IdentitySettings
from tests.fakes.certificate_server import CertificateServer, Handler, page, redirect, serving, silence
from tests.fakes.waiting import until
from tests.stir.fetching import HTTPS, Clocks, Names, chain, laboratory

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


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper's turns follow each other at once; what is due is said by the test's clock."""
    monkeypatch.setattr("agent.stir.keeper.TURN_SECONDS", 0.001)


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


# --- files


def test_without_a_trust_list_nobody_is_trusted_and_health_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk(tmp_path) as at:
            assert at.keeper.health() == (False, f"no trust list is configured, or given by a controller: {NOBODY}")
            assert [store.anchors for store in at.stores] == [()]

    run(main)


def test_anchors_of_a_file_are_trusted(tmp_path: Path) -> None:
    async def main() -> None:
        anchors = write(tmp_path / "anchors.pem", laboratory().root.pem)
        async with desk(tmp_path, trust_lists=(anchors,), pa_roots=None) as at:
            assert at.keeper.health() == (True, "1 authorities, sequence 0, 0 revocation lists of 0 certificates")
            (store,) = at.stores
            assert not store.assess(read_chain(chain(laboratory().signer)), at.clocks.wall).fault

    run(main)


def test_signed_list_and_revocation_list_of_files_are_in_force(tmp_path: Path) -> None:
    async def main() -> None:
        lab = laboratory()
        crl = write(tmp_path / "crl.pem", lab.crl.public_bytes(Encoding.PEM))
        async with desk(tmp_path, trust_lists=(write(tmp_path / "list.jws", lab.trust_list),), crls=(crl,)) as at:
            assert at.keeper.health() == (True, "1 authorities, sequence 1, 1 revocation lists of 2 certificates")
            (store,) = at.stores
            assert not store.assess(read_chain(chain(lab.signer)), at.clocks.wall).fault
            assert store.assess(read_chain(chain(lab.revoked)), at.clocks.wall).fault.startswith("it was revoked")

    run(main)


def test_several_lists_are_trusted_together(tmp_path: Path) -> None:
    async def main() -> None:
        lab = laboratory()
        sources = (
            write(tmp_path / "list.jws", trust_list(7)),
            write(tmp_path / "more.pem", lab.foreign_root.pem + lab.root.pem),
        )
        async with desk(tmp_path, trust_lists=sources) as at:
            assert at.words == "2 authorities, sequence 7, 0 revocation lists of 0 certificates"

    run(main)


def test_changed_file_is_taken_and_an_unchanged_one_costs_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "list.jws"
        async with desk(tmp_path, trust_lists=(write(file, trust_list(1)),)) as at:
            at.clocks.advance(FILE_SECONDS)
            await at.looks()
            assert len(at.stores) == 1
            write(file, trust_list(2, anchors=2))
            at.clocks.advance(FILE_SECONDS)
            await until(lambda: len(at.stores) == 2)
            assert (at.count("sequence"), at.count("authorities"), at.count("changes")) == (2, 2, 2)
            assert at.healthy()

    run(main)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "what is there is no JWS"),
        (b"\0" * 100, "what is there is no JWS"),
        (b"a.b.c", "what is there is no JWS"),
        (trust_list(4), "what is there has sequence 4, and 5 was seen before"),
        (trust_list(6, expires=1.0), "what is there expired at 1"),
        (b"-----BEGIN CERTIFICATE-----", "what is there has a PEM block that is damaged"),
        (None, "No such file or directory"),
    ],
)
def test_file_that_goes_wrong_leaves_the_last_good_list_and_is_alarmed(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    async def main() -> None:
        file = tmp_path / "list.jws"
        async with desk(tmp_path, trust_lists=(write(file, trust_list(5)),)) as at:
            file.unlink() if content is None else write(file, content)
            at.clocks.advance(FILE_SECONDS)
            await until(lambda: not at.healthy())
            assert at.words.startswith(f"trust list {file}: the last good one is in use ({why}")
            assert len(at.stores) == 1
            assert at.count("failures") == 1

            await at.restart()  # also when the agent starts again
            assert not at.healthy()
            assert at.stores[-1].sequence == 5
            assert len(at.stores[-1].anchors) == 1

            write(file, trust_list(6))
            at.clocks.advance(FILE_SECONDS)
            await until(lambda: at.stores[-1].sequence == 6)
            assert at.healthy()
            errors = [line for line in at.log if line["level"] == "error"]
            assert [line["event"] for line in errors] == ["trust list: the last good one stays"] * 2

    run(main)


def test_file_that_was_never_good_trusts_nobody_until_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "list.jws"
        async with desk(tmp_path, trust_lists=(str(file),)) as at:
            assert at.keeper.health() == (False, f"{NOBODY}; trust list {file}: No such file or directory")
            write(file, trust_list())
            at.clocks.advance(FILE_SECONDS)
            await until(at.healthy)

    run(main)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    async def main() -> None:
        pipe = tmp_path / "list.jws"
        os.mkfifo(pipe)
        async with desk(tmp_path, trust_lists=(str(pipe), str(tmp_path)), crls=("/dev/zero",)) as at:
            assert at.words.count("is no file") == 3

    run(main)


def test_list_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    async def main() -> None:
        lab = laboratory()
        forged = make_trust_list(lab.foreign, [lab.foreign_root.pem], 9, Clocks().wall + DAY)
        async with desk(tmp_path, trust_lists=(write(tmp_path / "list.jws", forged),)) as at:
            assert not at.healthy()
            assert at.stores[-1].anchors == ()

    run(main)


def test_signed_list_without_roots_says_what_is_missing(tmp_path: Path) -> None:
    async def main() -> None:
        file = write(tmp_path / "list.jws", trust_list())
        async with desk(tmp_path, trust_lists=(file,), pa_roots=None) as at:
            assert at.words.endswith("is not PEM, and pa_roots does not say who signs trust lists")

    run(main)


@pytest.mark.parametrize("field", ["pa_roots", "crl_signers", "intermediates", "https_ca"])
def test_configured_file_that_cannot_be_read_is_an_error_of_the_start(tmp_path: Path, field: str) -> None:
    async def main() -> None:
        for content in (None, b"nothing"):
            file = tmp_path / f"{field}.wrong"
            if content is not None:
                write(file, content)
            made = Desk(tmp_path, None, **{field: file})
            with pytest.raises(ConfigError) as caught:
                await made.keeper.start()
            assert caught.value.field == field
            await made.keeper.stop(1.0)
            assert made.stores == []

    run(main)


# --- URLs


def test_lists_are_fetched_and_in_force_soon_after_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        answer = json.dumps({"status": "success", "caList": trust_list(3).decode()}).encode()
        async with administrator(tmp_path, {LIST: page(answer), CRL: page(revocations(revoked=4))}) as (at, _):
            await until(at.healthy)
            assert at.words == "1 authorities, sequence 3, 1 revocation lists of 4 certificates"

    run(main)


def test_start_does_not_wait_for_a_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: silence, CRL: silence}) as (at, server):
            assert at.words.startswith(NOBODY)
            await until(lambda: server.asked.total() == 2)

    run(main)


def test_lists_are_fetched_again_at_their_intervals(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: page(trust_list(1)), CRL: page(revocations())}) as (at, server):
            await until(at.healthy)
            at.clocks.advance(3599)
            await until(lambda: server.asked == {LIST: 1, CRL: 1})
            at.clocks.advance(1)
            await until(lambda: server.asked == {LIST: 1, CRL: 2})
            server.pages[LIST] = page(trust_list(2))
            at.clocks.advance(3 * 3600)
            await until(lambda: at.count("sequence") == 2)
            assert server.asked[LIST] == 2

    run(main)


def test_failing_server_is_asked_again_and_alarmed_when_the_list_is_old(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: page(trust_list())}, crls=()) as (at, server):
            await until(at.healthy)
            server.pages[LIST] = page(b"", 503)
            at.clocks.advance(4 * 3600)
            await until(lambda: at.count("failures") == 1)
            assert at.healthy()  # for now; the trouble is told
            assert at.words.endswith("; trust list: 503 Service Unavailable")
            at.clocks.advance(RETRY_SECONDS)
            await until(lambda: at.count("failures") == 2)
            at.clocks.advance(RETRY_SECONDS)
            await at.keeper._look_at([])
            assert at.count("failures") == 2  # the pause is doubled
            at.clocks.advance(3 * DAY)
            await until(lambda: at.count("failures") == 3)
            assert at.keeper.health() == (
                False,
                f"trust list {server.url(LIST)}: not confirmed for 76 h (503 Service Unavailable)",
            )
            assert len(at.stores[-1].anchors) == 1
            assert at.count("list_age_seconds") > 3 * DAY
            server.pages[LIST] = page(trust_list())
            at.clocks.advance(4 * 3600)
            await until(at.healthy)
            assert at.count("list_age_seconds") == 0

    run(main)


def test_lower_sequence_from_a_server_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: page(trust_list(5))}, crls=()) as (at, server):
            await until(at.healthy)
            server.pages[LIST] = page(trust_list(4, anchors=2))
            at.clocks.advance(4 * 3600)
            await until(lambda: at.count("failures") == 1)
            assert at.words.endswith("has sequence 4, and 5 was seen before")
            await at.restart()
            await until(lambda: at.count("failures") == 1)
            assert (at.count("sequence"), at.count("authorities")) == (5, 1)

    run(main)


def test_older_revocation_list_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {LIST: page(trust_list()), CRL: page(revocations(2, age=60, revoked=5))}
        async with administrator(tmp_path, pages) as (at, server):
            await until(at.healthy)
            server.pages[CRL] = page(revocations(1, age=3600, revoked=1))
            at.clocks.advance(3600)
            await until(lambda: at.count("failures") == 1)
            assert at.words.endswith("revocation list: what is there is older than the one in use")
            assert at.count("revoked_certificates") == 5
            server.pages[CRL] = page(revocations(3, age=30, revoked=6))
            at.clocks.advance(3600)
            await until(lambda: at.count("revoked_certificates") == 6)

    run(main)


def test_expired_list_stays_in_use_and_is_alarmed(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {
            LIST: page(trust_list(expires=Clocks().wall + 3600)),
            CRL: page(revocations(left=7200)),
        }
        async with administrator(tmp_path, pages) as (at, _):
            await until(at.healthy)
            at.clocks.advance(3600 * 2 + 1)
            await until(lambda: not at.healthy())
            assert "trust list" in at.words
            assert "revocation list" in at.words
            assert at.words.count(": expired on ") == 2
            assert len(at.keeper.store.anchors) == 1

    run(main)


def test_certificates_without_a_signature_are_not_taken_from_a_url(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: page(laboratory().root.pem)}, crls=()) as (at, _):
            await until(lambda: at.count("failures") == 1)
            assert "is not signed" in at.words
            assert at.words.startswith(NOBODY)

    run(main)


def test_signer_of_the_list_is_fetched_from_its_x5u_and_kept(tmp_path: Path) -> None:
    async def main() -> None:
        lab = laboratory()

        async with administrator(tmp_path, {"/pa.pem": page(lab.pa_signer.pem)}, crls=()) as (at, server):
            await until(lambda: at.count("failures") == 1)  # there is no list yet
            header = {"alg": "ES256", "typ": "JWT", "x5u": server.url("/pa.pem")}
            payload = {"sequence": 8, "exp": int(at.clocks.wall + DAY), "trustList": [lab.root.pem.decode()]}
            server.pages[LIST] = page(sign_jws(header, payload, lab.pa_signer.key))
            at.clocks.advance(4 * 3600)
            await until(at.healthy)
            assert at.count("sequence") == 8
            at.clocks.advance(4 * 3600)
            await until(lambda: server.asked[LIST] == 3)
            assert server.asked["/pa.pem"] == 1
            server.pages.clear()
            await at.restart()
            assert at.stores[-1].sequence == 8

    run(main)


def test_x5u_of_the_list_is_fetched_by_the_rules_only(tmp_path: Path) -> None:
    async def main() -> None:
        lab = laboratory()
        header = {"alg": "ES256", "typ": "JWT", "x5u": "http://127.0.0.1/pa.pem"}
        payload = {"sequence": 8, "trustList": [lab.root.pem.decode()]}
        document = sign_jws(header, payload, lab.pa_signer.key)
        async with administrator(tmp_path, {LIST: page(document)}, crls=()) as (at, _):
            await until(lambda: at.count("failures") == 1)
            assert "is not signed by the policy administrator" in at.words

    run(main)


def test_redirect_of_a_list_is_followed(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {LIST: redirect("/new"), "/new": page(trust_list())}
        async with administrator(tmp_path, pages, crls=()) as (at, _):
            await until(at.healthy)

    run(main)


# --- restart


def test_last_good_lists_are_in_force_at_the_start_without_a_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: page(trust_list(3)), CRL: page(revocations(revoked=4))}) as (
            at,
            server,
        ):
            await until(at.healthy)
            server.pages.clear()
            at.clocks.advance(12 * 3600)
            await at.restart()
            assert at.keeper.health()[1].startswith("1 authorities, sequence 3, 1 revocation lists of 4 certificates")
            await until(lambda: at.count("failures") == 2)
            assert at.healthy()
            at.clocks.advance(10 * DAY)
            await at.restart()
            assert len(at.stores[-1].anchors) == 1
            assert at.words.count("not confirmed for 252 h") == 2

    run(main)


def test_kept_list_from_the_future_is_used_and_alarmed(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: page(trust_list())}, crls=()) as (at, server):
            await until(at.healthy)
            server.pages.clear()
            at.clocks.wall -= 365 * DAY  # a host that lost its clock
            await at.restart()
            assert len(at.stores[-1].anchors) == 1
            assert at.keeper.health()[0] is False

    run(main)


def test_damaged_kept_list_is_set_aside(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: page(trust_list())}, crls=()) as (at, server):
            await until(at.healthy)
            (kept,) = (tmp_path / "state" / "trust").iterdir()
            kept.write_bytes(kept.read_bytes()[:-1])
            server.pages.clear()
            await at.restart()
            assert at.words.startswith(NOBODY)
            assert at.count("disk_corrupt") == 1
            assert [path.suffix for path in kept.parent.iterdir()] == [".corrupt"]
            server.pages[LIST] = page(trust_list())
            at.clocks.advance(RETRY_SECONDS)
            await until(at.healthy)

    run(main)


def test_forged_kept_list_is_not_believed(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: page(trust_list())}, crls=()) as (at, _):
            await until(at.healthy)
            (kept,) = (tmp_path / "state" / "trust").iterdir()
            write(tmp_path / "pa-root.pem", laboratory().foreign_root.pem)  # the operator trusts somebody else now
            await at.restart()
            assert at.stores[-1].anchors == ()
            assert not kept.exists()

    run(main)


def test_state_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "state").write_bytes(b"in the way")
        file = write(tmp_path / "list.jws", trust_list())
        async with desk(tmp_path, trust_lists=(file,)) as at:
            assert at.healthy()
            assert at.words.endswith("; not kept on disk: Not a directory")
            assert at.count("disk_errors") == 2

    run(main)


# --- life


def test_keeper_that_does_not_run_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        made = Desk(tmp_path)
        assert made.keeper.health() == (False, "not started yet")
        await made.keeper.start()
        await made.keeper.stop(1.0)
        assert made.keeper.health() == (False, "stopped")

    run(main)


def test_stop_does_not_wait_for_a_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with administrator(tmp_path, {LIST: silence}, crls=()) as (at, server):
            await until(lambda: server.asked.total() == 1)
            async with asyncio.timeout(2.0):
                await at.keeper.stop(1.0)

    run(main)


def test_disk_that_hangs_at_the_start_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = threading.Event()
    monkeypatch.setattr("agent.stir.keeper.START_SECONDS", 0.05)

    def hangs(settings: IdentitySettings) -> object:
        hang.wait(30)
        return load_judges(settings)

    monkeypatch.setattr("agent.stir.keeper.load_judges", hangs)

    async def main() -> None:
        async with desk(tmp_path, trust_lists=(write(tmp_path / "list.jws", trust_list()),)) as at:
            assert at.words.startswith(NOBODY)
            hang.set()
            await until(at.healthy)

    run(main)


def test_counters_begin_with_the_name_and_are_numbers(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk(tmp_path, trust_lists=(write(tmp_path / "list.jws", trust_list()),)) as at:
            for name, value in at.keeper.counters().items():
                assert name.startswith("trust_")
                assert type(value) is int

    run(main)
