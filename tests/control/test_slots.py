"""Last known good: two slots, of which one is whole whatever happens to the other."""

import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.control.messages import FieldViolation, Phase, Problem
from agent.control.slots import JOURNAL, NOTHING, SLOTS, Slots
from agent.control.steps import Journal, Rejection
from agent.control.wire import offer_from, offer_to
from sbcedge.control.v1 import control_pb2
from tests.conftest import ROOT
from tests.control.offering import an_offer


def a_message(generation: int) -> bytes:
    """An offer with a list, as the contract serialises it, with a field that only a later version knows."""
    offer = an_offer(generation)
    message = control_pb2.ConfigOffer(generation=generation, sha256=offer.sha256, policy=offer.policy)
    message.soak.FromMilliseconds(12_345)
    manifest = message.artifacts.add(kind="dno", name="industry", generation=3, sha256=b"s" * 32, size=9, key_id="k")
    manifest.not_after.FromSeconds(1_900_000_000)
    manifest.MergeFromString(b"\xfa\x3e\x03new")
    manifest.signature = b"signed"
    return message.SerializeToString()


def test_the_last_two_are_kept_the_newest_first(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    assert slots.load() == []
    for generation in (7, 8, 9):
        slots.save(an_offer(generation))
    assert [offer.generation for offer in Slots(tmp_path).load()] == [9, 8]
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in SLOTS} == {0o600}


def test_an_offer_comes_back_as_it_was_with_what_only_a_later_version_knows(tmp_path: Path) -> None:
    offer = offer_from(a_message(8))
    Slots(tmp_path).save(offer)
    (back,) = Slots(tmp_path).load()
    assert back == offer
    assert b"new" in back.manifests[0].signed
    assert back.soak == 12.345
    assert offer_from(offer_to(back)) == offer


def test_the_same_under_another_number_leaves_the_other_slot_alone(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    slots.save(an_offer(7))
    slots.save(an_offer(8))
    for generation in (9, 10, 11):
        slots.save(an_offer(generation, "p8"))
    assert [offer.generation for offer in slots.load()] == [11, 7]


def test_any_flipped_bit_and_any_cut_loses_one_slot_and_never_the_other(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    slots.save(an_offer(7))
    slots.save(an_offer(8))
    newest = next(p for p in (tmp_path / n for n in SLOTS) if b"p8" in p.read_bytes())
    whole = newest.read_bytes()
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        for data in (bytes(broken), whole[:position]):
            newest.write_bytes(data)
            assert [offer.generation for offer in slots.load()] == [7]
            assert newest.name in slots.problems[0]
    slots.save(an_offer(9))  # over the broken one
    assert [offer.generation for offer in slots.load()] == [9, 7]
    assert slots.problems == []


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_slot_and_no_journal(tmp_path_factory: object, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("slots")  # type: ignore[attr-defined]
    for name in (*SLOTS, JOURNAL):
        (folder / name).write_bytes(data)
    slots = Slots(folder)
    assert slots.load() == []
    assert slots.load_journal() == NOTHING


def test_a_directory_in_the_place_of_a_slot_is_told_and_the_other_is_taken(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    slots.save(an_offer(7))
    (tmp_path / SLOTS[1]).mkdir()
    assert [offer.generation for offer in slots.load()] == [7]
    assert slots.problems == [f"{SLOTS[1]}: Is a directory"]


def test_the_journal_comes_back_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    assert slots.load_journal() == NOTHING
    problem = Problem(3, "limits[2].rate: is odd", (FieldViolation("limits[2].rate", "is odd"),))
    journal = Journal({8: Rejection(b"h" * 32, Phase.ROLLED_BACK, problem)}, {("dno", "industry"): 4}, (9, 2))
    slots.save_journal(journal)
    assert slots.load_journal() == journal
    path = tmp_path / JOURNAL
    text = path.read_bytes()
    for position in range(len(text)):
        broken = bytearray(text)
        broken[position] ^= 1
        path.write_bytes(broken)
        assert slots.load_journal() in (NOTHING, journal)  # a flip in the punctuation around it may change nothing
    path.write_bytes(text[:-10])
    assert slots.load_journal() == NOTHING
    assert slots.problems


WRITER = """
import itertools, sys
from pathlib import Path
from agent.control.slots import Slots
from tests.control.offering import an_offer
slots = Slots(Path(sys.argv[1]))
for generation in itertools.count(2):
    slots.save(an_offer(generation))
    print(generation, flush=True)
"""


def test_a_killed_writer_leaves_what_it_said_was_kept_or_what_came_after(tmp_path: Path) -> None:
    Slots(tmp_path).save(an_offer(1))
    last = 1
    for stop_after in (1, 4, 2):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(stop_after):
                last = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            said = process.stdout.read().split()
        last = int(said[-1]) if said else last
        slots = Slots(tmp_path)
        newest = slots.load()[0].generation
        assert slots.problems == []
        assert newest in (last, last + 1)
        for old in SLOTS:
            (tmp_path / old).unlink(missing_ok=True)
        slots.save(replace(an_offer(1)))
