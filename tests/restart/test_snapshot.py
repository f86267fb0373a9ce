"""The file of a snapshot: whatever is in it, it is read whole or refused; and what is taken up once is not again."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.calls import sessions_kept
from agent.calls.attempts import AttemptTable, AttemptTablePy
from agent.calls.sessions import SessionTable
from agent.policy.counters import Rate, RateTablePy, new_table
from agent.restart.files import BAD, SNAPSHOT, TAKEN, Writer, take_up
from agent.restart.snapshot import RATES, Clocks, Section, read
from agent.restart.state import restore
from agent.restart.verdicts import read_verdicts
from agent.screening import Screening
from tests.calls.messages import INVITE
from tests.fakes.calls import invite, policy, screen
from tests.restart.carrying import BOOT, SECRET, WALL, file_of, head_of, snapshot

ROOM = 1 << 20


def a_file() -> bytes:
    screening = Screening(policy(), SECRET)
    screen(screening, invite(), 1.0)
    return snapshot(screening, 2.0)


WHOLE = a_file()


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_snapshot(data: bytes) -> None:
    with pytest.raises(ValueError, match="is "):
        read(data)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_one_wrong_byte_anywhere_is_found(at: int, flip: int) -> None:
    data = bytearray(WHOLE)
    data[at] ^= flip
    with pytest.raises(ValueError, match=r"checksum|kind"):
        read(bytes(data))


@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_that_was_cut_off_is_found(length: int) -> None:
    with pytest.raises(ValueError, match=r"checksum|short"):
        read(WHOLE[:length])


KINDS = st.sampled_from([b"RATE", b"TRYS", b"CALL", b"CUST", b"what"])
NAMES = st.one_of(st.binary(max_size=20), st.just(b'["x", "trunk"]'))


@given(KINDS, NAMES, st.one_of(st.binary(max_size=200), st.integers(0, 8).map(lambda n: bytes(24 * n))))
def test_a_section_of_anything_is_taken_or_refused(kind: bytes, name: bytes, data: bytes) -> None:
    screening = Screening(policy(), SECRET)
    head, sections = read(file_of(head_of(screening, 1.0), [Section(kind, name, data, 1.0)]))
    with contextlib.suppress(ValueError):
        restore(screening, head, sections, Clocks(BOOT, 2.0, WALL))
    screen(screening, invite(), 3.0)


@given(st.binary(max_size=300))
def test_parts_of_anything_are_taken_or_refused(data: bytes) -> None:
    rate = Rate(1, 1, 1)
    for take in (
        lambda: new_table(rate).restore(data, 1.0, 0.0),
        lambda: RateTablePy(1, 1, 1).restore(data, 1.0, 0.0),
        lambda: AttemptTable().restore(data, [], 1.0, 0.0),
        lambda: AttemptTablePy().restore(data, [], 1.0, 0.0),
        lambda: sessions_kept.take_back(SessionTable(), data, 1.0, 0.0, 60.0),
        lambda: read_verdicts(data, policy()),
    ):
        with contextlib.suppress(ValueError):
            take()


def test_both_twins_of_the_attempts_restore_what_either_exports_and_forget_it_in_time() -> None:
    for source in (AttemptTable(), AttemptTablePy()):
        for n in range(50):
            entry = source.observe("peer", INVITE.but(call_id=b"%d" % n), n / 2)
            entry.decision = n // 10
        source.observe("peer", INVITE.but(call_id=b"49", branch=b"z9hG4bKretry", cseq=2), 25.0)
        data, decisions, phase = source.export(30.0)
        for target in (AttemptTable(), AttemptTablePy()):
            assert target.restore(data, decisions, 7.0, phase + 5.0) == 50
            assert (len(target), target.queued()) == (50, 50)
            known = {target.export(7.0)[0][at : at + 8] for at in range(0, 51 * 40, 40)}
            assert len(known) == 50
            for now in (60.0, 61.0):  # each new attempt lets go of two that are over
                for n in range(30):
                    target.observe("peer", INVITE.but(call_id=b"new %d %d" % (n, now)), now)
            assert target.queued() == len(target) == 60


def test_a_snapshot_is_taken_up_once(tmp_path: Path) -> None:
    (tmp_path / SNAPSHOT).write_bytes(WHOLE)
    first = take_up(tmp_path, ROOM)
    assert first.head is not None
    assert first.size == len(WHOLE)
    again = take_up(tmp_path, ROOM)  # the first one ended without writing one
    assert again.head is None
    assert "not tried again" in again.problem
    assert take_up(tmp_path, ROOM).problem == ""


def test_a_damaged_snapshot_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / SNAPSHOT).write_bytes(WHOLE[:-1] + b"?")
    found = take_up(tmp_path, ROOM)
    assert found.head is None
    assert "checksum" in found.problem
    assert (tmp_path / BAD).exists()
    assert not (tmp_path / SNAPSHOT).exists()
    assert take_up(tmp_path, ROOM).problem == ""


def test_a_snapshot_beyond_all_bounds_is_not_read(tmp_path: Path) -> None:
    (tmp_path / SNAPSHOT).write_bytes(WHOLE)
    found = take_up(tmp_path, len(WHOLE) - 1)
    assert found.head is None
    assert "max_bytes" in found.problem


def test_a_new_snapshot_replaces_the_old_one_when_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "restart"
    place.mkdir()
    (place / SNAPSHOT).write_bytes(WHOLE)
    (place / TAKEN).write_bytes(b"old")
    writer = Writer(place, ROOM)
    writer.begin(head_of(Screening(policy(), SECRET), 5.0))
    writer.add(Section(RATES, b"", b"x" * 10, 5.0))
    assert (place / SNAPSHOT).read_bytes() == WHOLE
    writer.finish()
    head, sections = read((place / SNAPSHOT).read_bytes())
    assert (head.monotonic, bytes(sections[0].data), writer.size) == (5.0, b"x" * 10, (place / SNAPSHOT).stat().st_size)
    assert [path.name for path in place.iterdir()] == [SNAPSHOT]
    assert (place / SNAPSHOT).stat().st_mode & 0o777 == 0o600


def test_what_has_no_room_is_left_out_and_counted(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 1000)
    writer.begin(head_of(Screening(policy(), SECRET), 5.0))
    writer.add(Section(RATES, b"large", bytes(2000), 5.0))
    writer.add(Section(RATES, b"small", b"", 5.0))
    writer.finish()
    _, sections = read((tmp_path / SNAPSHOT).read_bytes())
    assert ([one.name for one in sections], writer.left_out) == ([b"small"], 1)
    assert writer.size <= 1000


def test_an_abandoned_one_leaves_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path, ROOM)
    writer.begin(head_of(Screening(policy(), SECRET), 5.0))
    writer.abandon()
    assert not list(tmp_path.iterdir())
