"""What can be sent cheaply and costs us is bounded: each flood ends its connection, and is counted."""

import pytest

from agent.http2 import frames
from agent.http2.errors import Code
from agent.http2.frames import END_HEADERS, Kind
from agent.http2.limits import CHATTER, CONTINUATIONS, RESETS, Allowance, Meter
from tests.http2.client import ASK, DONE, HEAD, Served, data, goaway_of, headers

BURST = int(CHATTER[0])
FLOODS = {
    "pings": frames.frame(Kind.PING, 0, 0, bytes(8)),
    "settings": frames.settings({}),
    "priorities": frames.frame(Kind.PRIORITY, 0, 1, bytes(4) + b"\x10"),
    "window updates": frames.window_update(0, 1),
    "empty frames": data(1, b""),
    "unknown frames": b"\0\0\0\xee\0\0\0\0\0",
    "goaways": frames.goaway(0, Code.NO_ERROR),
}


@pytest.mark.parametrize("what", FLOODS)
def test_a_flood_of_frames_that_carry_nothing_ends_the_connection(what: str) -> None:
    served = Served()
    served.ask(1)
    served.say(FLOODS[what] * (BURST // 2))
    assert not served.connection.ended
    assert goaway_of(served.say(FLOODS[what] * BURST)) == (Code.ENHANCE_YOUR_CALM, f"too many {what}")
    assert served.counts[what] == 1


@pytest.mark.parametrize("what", FLOODS)
def test_the_same_frames_are_no_flood_in_the_course_of_time_or_beside_calls(what: str) -> None:
    slow, busy = Served(), Served()
    slow.ask(1)
    busy.ask(1)
    for _ in range(3 * BURST):
        slow.now += 1.01 / CHATTER[1]
        slow.say(FLOODS[what])
        busy.say(FLOODS[what] + data(1, b"x"))
    assert not slow.connection.ended
    assert not busy.connection.ended


def test_streams_begun_and_reset_without_end_are_stopped() -> None:
    """Rapid Reset, CVE-2023-44487."""
    served = Served()
    number, answer = 1, []
    while not served.connection.ended:
        pair = (headers(n, ended=True) + frames.rst_stream(n, Code.CANCEL) for n in range(number, number + 1000, 2))
        answer = served.say(*pair)
        number += 1000
        assert number < 3 * RESETS[0]
    assert goaway_of(answer) == (Code.ENHANCE_YOUR_CALM, "too many resets")
    assert served.counts["resets"] == 1


def test_streams_that_we_are_made_to_reset_are_stopped_likewise() -> None:
    """MadeYouReset, CVE-2025-8671."""
    served = Served()
    number, answer = 1, []
    while not served.connection.ended:
        answer = served.say(headers(number), frames.window_update(number, 0))
        number += 2
        assert number < 3 * RESETS[0]
    assert goaway_of(answer)[0] is Code.ENHANCE_YOUR_CALM


def test_a_client_whose_calls_are_all_too_late_is_not_taken_for_an_attacker() -> None:
    served = Served()
    for n in range(1, 30_000, 2):
        served.now += 1 / 2000
        served.say(headers(n, ended=True) + frames.rst_stream(n, Code.CANCEL))
    assert not served.connection.ended


@pytest.mark.parametrize("part", [b"", b"x", bytes(3000)])
def test_a_header_block_that_does_not_end_is_stopped(part: bytes) -> None:
    """The CONTINUATION flood, CVE-2024-27316 and others."""
    served = Served()
    answer = served.say(frames.frame(Kind.HEADERS, 0, 1, ASK))
    for _ in range(CONTINUATIONS):
        answer += served.say(frames.frame(Kind.CONTINUATION, 0, 1, part))
    assert goaway_of(answer) == (Code.ENHANCE_YOUR_CALM, "too many continuations")
    assert served.counts["continuations"] == 1


def test_a_list_that_a_small_block_blows_up_is_stopped() -> None:
    """The HPACK bomb."""
    served = Served()
    served.say(headers(1, ASK + b"\x40\x01x" + b"\x7f\xa1\x1e" + b"v" * 4000))
    answer = served.say(headers(3, ASK + b"\xbe" * 4000))
    assert goaway_of(answer)[0] is Code.ENHANCE_YOUR_CALM
    assert served.counts["header bytes"] == 1


def test_a_block_longer_than_any_is_stopped() -> None:
    served = Served()
    answer = served.say(frames.frame(Kind.HEADERS, END_HEADERS, 1, ASK + b"\0\x01x\x7f\xff\x9f\x01" + bytes(30_000)))
    assert goaway_of(answer)[0] is Code.ENHANCE_YOUR_CALM


def test_frames_on_streams_that_are_over_are_a_flood_too() -> None:
    served = Served()
    served.connection.respond(served.ask(1, b"x").stream, HEAD, b"", DONE)
    answer = served.say(*[data(1, b"x")] * (BURST + 1))
    assert goaway_of(answer) == (Code.ENHANCE_YOUR_CALM, "too many late frames")


def test_a_meter_fills_with_time_and_never_beyond_its_burst() -> None:
    meter = Meter(2, 1)
    assert [meter.take(0.0) for _ in range(3)] == [True, True, False]
    assert [meter.take(100.0) for _ in range(3)] == [True, True, False]
    assert not meter.take(50.0), "a clock that steps back gives nothing"


def test_an_allowance_is_shared() -> None:
    whole = Allowance(10)
    one, other = Allowance(8, whole), Allowance(8, whole)
    assert [one.take(8), one.take(1), other.take(3), other.take(2)] == [True, False, False, True]
    one.give(8)
    assert (whole.held, other.take(6), other.held) == (2, True, 8)
