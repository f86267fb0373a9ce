"""Reading a spool beside the process that writes it."""

import json
from pathlib import Path

import pytest

from agent.records.reading import Follower, Wanted, find, latest, records
from agent.records.segment import Kind
from agent.records.settings import SpoolSettings
from agent.records.spool_store import Group, SpoolStore
from tests.records.decisions import batches, segments

WHEN = 1_800_000_000.0


def line(call_id: str, action: str = "allow", time: str = "2027-01-15T08:00:00.000000Z") -> bytes:
    return json.dumps({"time": time, "call_id": call_id, "action": action}, ensure_ascii=False).encode()


@pytest.fixture
def store(tmp_path: Path) -> SpoolStore:
    """An open spool with segments of 4 kB."""
    store = SpoolStore(SpoolSettings(tmp_path / "spool", segment_bytes=4096, min_free_ratio=0.0))
    store.open(0.0, WHEN)
    return store


@pytest.fixture
def directory(store: SpoolStore, tmp_path: Path) -> Path:
    return tmp_path / "spool"


def write(store: SpoolStore, refused: str = "", allowed: str = "") -> None:
    """One group, a record for each letter."""
    store.write(Group([line(c, "refuse") for c in refused], (), [line(c) for c in allowed]), 0.0, WHEN)


def ids(found: object) -> str:
    assert isinstance(found, list)
    return "".join(record["call_id"] for record in found)


def test_records_of_both_streams_come_in_the_order_of_their_sequence(store: SpoolStore, directory: Path) -> None:
    write(store, "a", "b")
    write(store, "", "cd")
    write(store, "e")
    assert ids(list(records(directory))) == "abcde"


def test_what_is_open_is_read_too(store: SpoolStore, directory: Path) -> None:
    write(store, "a")
    assert [path.suffix for path in segments(directory)] == [".open"]
    assert ids(list(records(directory))) == "a"


def test_filters_by_kind_verdict_and_time(store: SpoolStore, directory: Path) -> None:
    store.write(
        Group(
            [line("r", "refuse", "2027-01-15T08:00:01.000000Z"), line("d", "drop"), line("s", "allow")],
            [b'{"attempts":3}'],
            [line("a"), line("b", time="2027-01-15T08:00:02.000000Z")],
        ),
        0.0,
        WHEN,
    )
    assert ids(list(records(directory, Wanted(refused=True)))) == "rd"
    assert [r["attempts"] for r in records(directory, Wanted(kinds=frozenset({Kind.ROLLUP})))] == [3]
    calls = frozenset({Kind.REFUSED, Kind.ALLOWED})
    later = Wanted(since="2027-01-15T08:00:01.000000Z", kinds=calls)
    assert ids(list(records(directory, later))) == "rb"
    window = Wanted(since="2027-01-15T08:00:01.000000Z", until="2027-01-15T08:00:02.000000Z", kinds=calls)
    assert ids(list(records(directory, window))) == "r"


def test_batches_long_before_the_time_asked_for_are_not_even_unpacked(
    store: SpoolStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, "a")
    monkeypatch.setattr("agent.records.segment.Batch.text", lambda _self: pytest.fail("unpacked"))
    assert list(records(directory, Wanted(since_epoch=WHEN + 8000.0))) == []


@pytest.mark.parametrize(("number", "expected"), [(0, ""), (1, "h"), (3, "fgh"), (8, "abcdefgh"), (99, "abcdefgh")])
def test_the_latest_are_the_last_of_both_streams(
    store: SpoolStore, directory: Path, number: int, expected: str
) -> None:
    for refused, allowed in (("a", "b"), ("c", "d"), ("e", "fg"), ("h", "")):
        write(store, refused, allowed)
    assert ids(latest(directory, number)) == expected


def test_the_latest_refused_are_found_behind_many_allowed(store: SpoolStore, directory: Path) -> None:
    write(store, "ab")
    for _ in range(60):
        write(store, "", "x" * 50)
    assert ids(latest(directory, 1, Wanted(refused=True))) == "b"


def test_a_call_is_found_by_its_call_id_whatever_is_in_it(store: SpoolStore, directory: Path) -> None:
    odd = 'a"b\\c\n\u00e9@192.0.2.10'
    store.write(Group([line(odd, "refuse")], (), [line("a"), line(odd), line(odd + "x")]), 0.0, WHEN)
    assert [(r["action"], r["sequence"]) for r in find(directory, odd)] == [("refuse", 1), ("allow", 3)]
    assert list(find(directory, "b")) == []


def test_a_word_in_another_field_is_no_call_id(store: SpoolStore, directory: Path) -> None:
    store.write(Group([b'{"call_id":"x","why":"y"}']), 0.0, WHEN)
    assert list(find(directory, "y")) == []


def test_a_follower_gives_what_is_new_and_gives_it_once(store: SpoolStore, directory: Path) -> None:
    write(store, "a", "b")
    follower = Follower(directory)
    assert follower.look() == []
    write(store, "c", "de")
    assert ids(follower.look()) == "cde"
    assert follower.look() == []
    for word in "fgh":
        store.write(Group([line(word), line("z" * 5000)]), 0.0, WHEN)  # deflates well: fills no segment
    store.close(0.0, WHEN)
    assert [r["call_id"] for r in follower.look() if len(r["call_id"]) == 1] == list("fgh")


def test_a_follower_goes_on_over_rotation(store: SpoolStore, directory: Path) -> None:
    follower = Follower(directory)
    seen = ""
    for number in range(26 * 3):
        word = chr(ord("a") + number % 26)
        noise = json.dumps({"call_id": word, "noise": str(number) * 500}).encode()
        store.write(Group(*(([noise], (), ()) if number % 3 else ((), (), [noise]))), float(number * 300), WHEN)
        if number % 5 == 0:
            seen += ids(follower.look())
    seen += ids(follower.look())
    assert seen == "abcdefghijklmnopqrstuvwxyz" * 3
    assert len(segments(directory)) > 4


def test_half_of_a_batch_is_not_shown_until_the_rest_is_there(store: SpoolStore, directory: Path) -> None:
    follower = Follower(directory)
    write(store, "a")
    write(store, "b")
    (path,) = segments(directory)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    told: list[str] = []
    assert ids(follower.look(problem=told.append)) == "a"
    path.write_bytes(whole)
    assert ids(follower.look(problem=told.append)) == "b"
    assert told == []


def test_a_segment_that_is_sealed_or_dropped_while_it_is_read_is_found_or_skipped(
    store: SpoolStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, "a", "b")
    listed = segments(directory)
    store.close(0.0, WHEN)
    monkeypatch.setattr(Path, "iterdir", lambda _self: iter(listed))
    assert ids(list(records(directory))) == "ab"
    for path in segments(directory, "allowed"):
        path.unlink()
    for path in directory.glob("allowed-*"):
        path.unlink()
    assert ids(list(records(directory))) == "a"


def test_damage_is_passed_over_and_told(store: SpoolStore, directory: Path) -> None:
    for word in "abc":
        write(store, word)
    (path,) = segments(directory)
    second = batches(path)[1]
    data = bytearray(path.read_bytes())
    data[second.end - 1] ^= 1
    path.write_bytes(data)
    told: list[str] = []
    assert ids(list(records(directory, problem=told.append))) == "ac"
    assert told == [f"{path.name}: bytes {second.offset} to {second.end}: a damaged batch, 1 records from 2 lost"]


def test_a_record_that_is_no_json_is_told_and_the_next_one_read(store: SpoolStore, directory: Path) -> None:
    store.write(Group([b"{", b"[]", line("a")]), 0.0, WHEN)
    told: list[str] = []
    assert ids(list(records(directory, problem=told.append))) == "a"
    assert told == ["record 1 is no JSON object", "record 2 is no JSON object"]


def test_a_spool_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(records(tmp_path / "none"))
