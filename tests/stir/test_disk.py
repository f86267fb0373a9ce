"""Certificates on disk: what survives a restart, and what becomes of a directory that is damaged, full or missing."""

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.model import Credential, Unreachable
from agent.stir.disk import CORRUPT_MAX, DiskCache
from agent.stir.stored import Stored, read_stored
from tests.fakes.certificate_server import page
from tests.fakes.waiting import until
from tests.stir.fetching import Bench, bench, chain, laboratory, trust

DAY = 86400.0
URL = "https://certs.example.net/1.pem"


def stored(n: int = 1, size: int = 1000) -> Stored:
    return Stored(f"https://certs.example.net/{n}.pem", 1e9, bytes(size), fresh_until=2e9, usable_until=3e9)


def opened(directory: Path, bytes_max: int = 1 << 20, files_max: int = 100) -> DiskCache:
    disk = DiskCache(directory, bytes_max, files_max)
    disk.open()
    return disk


# --- one file


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False), st.binary(), st.binary())
def test_what_is_encoded_is_read(source: str, when: float, body: bytes, signer: bytes) -> None:
    written = Stored(source, when, body, signer, when, when)
    assert read_stored(written.encode()) == written


@given(st.binary())
def test_arbitrary_bytes_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(has|is) "):
        read_stored(data)


@given(st.data())
def test_any_damage_is_noticed(data: st.DataObject) -> None:
    whole = Stored(URL, 1e9, b"body", b"signer", 2e9, 3e9).encode()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    for file in (damaged, cut):
        try:
            read = read_stored(file)
        except ValueError:
            continue
        assert (read.body, read.signer) == (b"body", b"signer")  # only a number or the source may have changed


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"source": 1},
        {"signer_bytes": -1},
        {"signer_bytes": 100},
        {"signer_bytes": True},
        {"fetched": "now"},
        {"fetched": None},
        {"fetched": float("nan")},
        {"fetched": float("inf")},
        {"sha256": "00"},
    ],
)
def test_header_of_something_else_is_refused(change: dict[str, object]) -> None:
    line, _, body = Stored(URL, 1e9, b"body").encode().partition(b"\n")
    with pytest.raises(ValueError, match=r"."):
        read_stored(json.dumps(json.loads(line) | change).encode() + b"\n" + body)


# --- one directory


def test_what_is_written_is_there_for_the_next_process(tmp_path: Path) -> None:
    disk = opened(tmp_path / "a" / "b")
    disk.write(stored(1))
    disk.write(stored(2))
    again = opened(tmp_path / "a" / "b")
    assert again.read(stored(1).source) == stored(1)
    assert stored(2).source in again
    assert stored(3).source not in again
    assert again.read(stored(3).source) is None
    assert (len(again), again.bytes) == (2, disk.bytes)


def test_newer_one_replaces_the_older_one(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    disk.write(stored(1, 1000))
    disk.write(stored(1, 500))
    assert disk.read(stored(1).source) == stored(1, 500)
    assert (len(disk), disk.bytes) == (1, len(stored(1, 500).encode()))


def test_oldest_go_first_when_there_are_too_many_or_too_large(tmp_path: Path) -> None:
    disk = opened(tmp_path, files_max=3)
    for n in range(5):
        disk.write(stored(n))
    assert [stored(n).source in disk for n in range(5)] == [False, False, True, True, True]
    assert disk.evictions == 2
    assert len(list(tmp_path.iterdir())) == 3
    small = opened(tmp_path, bytes_max=len(stored(4).encode()) + 100)
    assert len(small) == 1
    assert small.bytes <= len(stored(4).encode()) + 100
    small.write(stored(9, 5000))  # larger than all that may be kept
    assert stored(9).source not in small


def test_zero_bytes_keep_nothing(tmp_path: Path) -> None:
    disk = opened(tmp_path, bytes_max=0)
    disk.write(stored())
    assert list(tmp_path.iterdir()) == []


def test_damaged_file_is_set_aside_and_said(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    disk.write(stored())
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert disk.read(stored().source) is None
    assert stored().source not in disk
    assert (disk.corrupt, disk.bytes) == (1, 0)
    assert [path.name for path in tmp_path.iterdir()] == [file.name + ".corrupt"]
    assert len(opened(tmp_path)) == 0


def test_no_more_damaged_files_are_kept_than_anybody_reads(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    for n in range(CORRUPT_MAX + 5):
        disk.write(stored(n))
        for file in tmp_path.glob("*.certificate"):
            file.write_bytes(b"")
        assert disk.read(stored(n).source) is None
    assert len(list(tmp_path.iterdir())) == CORRUPT_MAX


def test_file_under_the_name_of_another_url_is_not_believed(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    disk.write(stored(1))
    (first,) = tmp_path.iterdir()
    disk.write(stored(2))
    (second,) = set(tmp_path.iterdir()) - {first}
    second.write_bytes(first.read_bytes())
    assert disk.read(stored(2).source) is None
    assert disk.corrupt == 1


def test_rests_of_a_crash_and_strange_files_do_no_harm(tmp_path: Path) -> None:
    name = "0" * 64 + ".certificate"
    (tmp_path / f".{name}.1234.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_bytes(b"mine")
    (tmp_path / name).mkdir()
    (tmp_path / ("1" * 64 + ".certificate")).symlink_to("/dev/zero")
    disk = opened(tmp_path)
    assert len(disk) == 0
    assert not list(tmp_path.glob("*.tmp"))
    assert (tmp_path / "notes.txt").read_bytes() == b"mine"


def test_file_that_vanished_is_not_there(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    disk.write(stored())
    for file in tmp_path.iterdir():
        file.unlink()
    assert disk.read(stored().source) is None
    assert stored().source not in disk


# --- restart


def spc(answer: object) -> str:
    return answer.spc if isinstance(answer, Credential) and not answer.fault else ""


async def restart(at: Bench, **trusted: bool) -> None:
    """The process ends, another one begins."""
    await at.source.stop(5.0)
    at.source = at.another()
    await at.source.start()
    await at.source.adopt(trust(**trusted))


def test_certificate_survives_a_restart_without_its_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(chain(laboratory().signer))}, tmp_path) as at:
            assert spc(await at.ask()) == "1234"
            del at.server.pages["/1.pem"]
            at.clocks.advance(DAY / 2)
            await restart(at)
            assert at.count("disk_files") == 1
            assert spc(await at.ask()) == "1234"
            assert at.source.peek([at.server.url("/1.pem")]) is not None
            assert at.server.asked.total() == 1
            assert (at.count("disk_read"), at.count("fetches")) == (1, 0)

    asyncio.run(main())


def test_age_goes_on_while_the_agent_does_not_run(tmp_path: Path) -> None:
    async def main() -> None:
        pages = {"/1.pem": page(chain(laboratory().signer), headers={"Cache-Control": "max-age=300"})}
        async with bench(pages, tmp_path) as at:
            assert spc(await at.ask()) == "1234"
            at.clocks.advance(301)
            await restart(at)
            assert spc(await at.ask()) == "1234"
            assert at.server.asked.total() == 2  # no longer fresh: its server was asked
            at.server.pages["/1.pem"] = page(b"", 503)
            at.clocks.advance(301)
            await restart(at)
            assert spc(await at.ask()) == "1234"  # which fails: still usable
            assert at.count("failed_status") == 1
            at.clocks.advance(DAY)
            await restart(at)
            assert await at.ask() == Unreachable("503 Service Unavailable")
            assert at.count("disk_outdated") == 1

    asyncio.run(main())


def test_certificate_on_disk_is_assessed_under_the_trust_of_now(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(chain(laboratory().revoked))}, tmp_path) as at:
            await at.source.adopt(trust(crl=False))
            assert spc(await at.ask()) == "1234"
            await restart(at)
            answer = await at.ask()
            assert isinstance(answer, Credential)
            assert answer.fault.startswith("it was revoked")

    asyncio.run(main())


def test_failures_and_bad_certificates_are_not_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(chain(laboratory().foreign))}, tmp_path) as at:
            await at.ask("/1.pem")
            await at.ask("/2.pem")
            await restart(at)
            assert at.count("disk_files") == 0
            at.server.pages["/2.pem"] = page(chain(laboratory().signer))
            assert spc(await at.ask("/2.pem")) == "1234"

    asyncio.run(main())


@pytest.mark.parametrize("jump", [-3600.0, -30 * 365 * DAY, 30 * 365 * DAY])
def test_wall_clock_that_jumped_makes_nothing_fresh(tmp_path: Path, jump: float) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(chain(laboratory().signer))}, tmp_path) as at:
            await at.ask()
            del at.server.pages["/1.pem"]
            at.clocks.wall += jump
            await restart(at)
            assert await at.ask() == Unreachable("404 Not Found")
            assert at.count("disk_outdated") == 1
            at.clocks.wall -= jump  # the clock is put right: what is on disk was not thrown away
            await restart(at)
            assert spc(await at.ask()) == "1234"

    asyncio.run(main())


def test_wall_clock_that_jumps_while_running_changes_no_age(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(chain(laboratory().signer))}, tmp_path) as at:
            await at.ask()
            at.clocks.wall += 30 * 365 * DAY
            assert at.source.peek([at.server.url("/1.pem")]) is not None
            at.clocks.wall -= 60 * 365 * DAY
            assert at.source.peek([at.server.url("/1.pem")]) is not None

    asyncio.run(main())


def test_damaged_disk_cache_costs_a_fetch(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(chain(laboratory().signer))}, tmp_path) as at:
            await at.ask()
            await at.source.stop(5.0)
            for file in (at.settings.directory / "certificates").iterdir():
                file.write_bytes(b"\0" * 100)
            await restart(at)
            assert spc(await at.ask()) == "1234"
            assert at.server.asked.total() == 2
            assert at.count("disk_corrupt") == 1

    asyncio.run(main())


# --- trouble with the disk


def test_directory_that_cannot_be_made_costs_only_the_restart(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "identity").write_bytes(b"a file where the directory should be")
        async with bench({"/1.pem": page(chain(laboratory().signer))}, tmp_path) as at:
            assert spc(await at.ask()) == "1234"
            await until(lambda: at.count("disk_errors") == 2)
            healthy, words = at.source.health()
            assert healthy
            assert words.endswith("; not kept on disk: Not a directory")
            (tmp_path / "identity").unlink()  # put right
            at.server.pages["/2.pem"] = page(chain(laboratory().signer))
            assert spc(await at.ask("/2.pem")) == "1234"
            await until(lambda: at.count("disk_files") == 1 and "not kept" not in at.source.health()[1])

    asyncio.run(main())


def test_disk_that_does_not_answer_keeps_no_call_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.stir.keeping.PATIENCE", 0.05)
    hang = threading.Event()

    def hangs(_disk: DiskCache, _url: str) -> None:
        hang.wait(30)

    async def main() -> None:
        async with bench({"/1.pem": page(chain(laboratory().signer))}, tmp_path) as at:
            await at.ask()
            await restart(at)
            monkeypatch.setattr(DiskCache, "read", hangs)
            assert spc(await at.ask()) == "1234"
            assert at.server.asked.total() == 2
            assert "not kept on disk: the disk does not answer" in at.source.health()[1]
            hang.set()

    asyncio.run(main())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", mount], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"this root may not mount: {done.stderr.decode().strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


@pytest.mark.kernel
def test_full_disk_is_said_and_certificates_are_known_all_the_same(small_disk: Path) -> None:
    async def main() -> None:
        pages = {f"/{n}.pem": page(chain(laboratory().signer)) for n in range(3)}
        async with bench(pages, small_disk) as at:
            assert spc(await at.ask("/0.pem")) == "1234"
            await until(lambda: at.count("disk_files") == 1)
            ballast = small_disk / "ballast"
            with ballast.open("wb", buffering=0) as file:
                while True:
                    try:
                        file.write(bytes(4096))
                    except OSError:
                        break
            assert spc(await at.ask("/1.pem")) == "1234"
            await until(lambda: at.count("disk_errors") == 1)
            assert at.source.health()[1].endswith("; not kept on disk: No space left on device")
            assert not list(small_disk.rglob("*.tmp"))
            ballast.unlink()
            assert spc(await at.ask("/2.pem")) == "1234"
            await until(lambda: at.count("disk_files") == 2 and "not kept" not in at.source.health()[1])

    asyncio.run(main())


@pytest.mark.kernel
def test_read_only_disk_is_read_and_not_written(small_disk: Path) -> None:
    async def main() -> None:
        async with bench({"/1.pem": page(chain(laboratory().signer))}, small_disk) as at:
            assert spc(await at.ask("/1.pem")) == "1234"
            await at.source.stop(5.0)
            subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
            await restart(at)
            at.server.pages["/2.pem"] = at.server.pages.pop("/1.pem")
            assert spc(await at.ask("/1.pem")) == "1234"
            assert spc(await at.ask("/2.pem")) == "1234"
            await until(lambda: at.count("disk_errors") == 1)
            assert at.source.health()[1].endswith("; not kept on disk: Read-only file system")

    asyncio.run(main())
