"""Trust lists and revocation lists: taken when good, kept when what follows is not, alarmed when they grow old."""

import asyncio
import os
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.certificate import read_chain
from agent.model import ConfigError
from agent.stir.artifact import FILE_SECONDS, RETRY_SECONDS
from agent.stir.keeper import NOBODY
from agent.stir.lab import make_trust_list
from agent.stir.lists import load_judges
from agent.stir.settings import IdentitySettings
from tests.fakes.certificate_server import page, silence
from tests.fakes.waiting import until
from tests.stir.desk import CRL, DAY, LIST, Desk, administrator, desk, revocations, run, trust_list, write
from tests.stir.fetching import Clocks, chain, laboratory

pytestmark = pytest.mark.usefixtures("quick")

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
