"""Framing a stream: the result is the same however it is cut, in path and out of path."""

import time
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import ParseError
from agent.sip.framer import Framer
from agent.sip.message import parse
from tests.sip.texts import request


def message(name: bytes, body: bytes = b"", length: bytes | None = None) -> bytes:
    return b"INFO sip:a@b SIP/2.0\r\nCall-ID: %b\r\nContent-Length: %b\r\n\r\n%b" % (
        name,
        b"%d" % len(body) if length is None else length,
        body,
    )


ONE, TWO, THREE = message(b"1", b"v=0\r\n\r\n"), message(b"2"), message(b"3", b"\r\n\r\nINFO sip:x SIP/2.0\r\n\r\n")


@dataclass(frozen=True)
class Result:
    messages: list[bytes]
    pings: int
    dropped: int
    pending: int
    error: str


def run(chunks: list[bytes], *, resync: bool = False, max_headers: int = 65_535, max_body: int = 65_535) -> Result:
    framer = Framer(resync=resync, max_headers=max_headers, max_body=max_body)
    messages: list[bytes] = []
    for chunk in chunks:
        if framer.error:
            break
        messages += framer.feed(chunk)
    return Result(messages, framer.pings, framer.dropped, framer.pending, str(framer.error or ""))


def test_messages_across_and_within_chunks() -> None:
    stream = ONE + TWO + THREE
    framer = Framer()
    assert framer.feed(stream[:30]) == []
    assert framer.feed(stream[30 : len(ONE) + 10]) == [ONE]
    assert framer.pending == 10
    assert framer.feed(stream[len(ONE) + 10 :]) == [TWO, THREE]
    assert (framer.pending, framer.dropped, framer.error) == (0, 0, None)


def test_body_that_looks_like_messages_is_a_body() -> None:
    assert run([THREE + ONE]).messages == [THREE, ONE]


def test_double_crlf_between_messages_is_a_ping() -> None:
    result = run([b"\r\n\r\n" + ONE + b"\r\n" + TWO + b"\r\n\r\n\r\n\r\n" + THREE])
    assert (result.messages, result.pings, result.dropped) == ([ONE, TWO, THREE], 3, 0)


def test_framed_messages_parse_without_surplus() -> None:
    raw = request(b"l: 3", body=b"abc")
    (framed,) = run([b"\r\n" + raw + b"\r\n"]).messages
    assert parse(framed, stream=True).defects == ()


def test_bare_line_feeds_and_compact_folded_content_length() -> None:
    raw = b"INFO sip:a SIP/2.0\nL :\n  002\nX: y\n\nab"
    assert run([raw + TWO]).messages == [raw, TWO]


def test_folded_line_that_looks_like_content_length_is_none() -> None:
    raw = b"INFO sip:a SIP/2.0\r\nSubject: x\r\n Content-Length: 99\r\nContent-Length: 1\r\n\r\na"
    assert run([raw + TWO]).messages == [raw, TWO]


def test_equal_content_lengths_can_be_followed() -> None:
    raw = b"INFO sip:a SIP/2.0\r\nContent-Length: 1\r\nl: 01\r\n\r\na"
    assert run([raw + TWO]).messages == [raw, TWO]


@pytest.mark.parametrize(
    ("bad", "place", "offset"),
    [
        (message(b"x", length=b"-999"), "Content-Length", 0),
        (message(b"x", length=b"x"), "Content-Length", 0),
        (message(b"x", length=b"1, 1"), "Content-Length", 0),
        (message(b"x", length=b""), "Content-Length", 0),
        (message(b"x", length=b"1\r\nl: 2"), "Content-Length", 0),
        (message(b"x", length=b"1\r\nl: y"), "Content-Length", 0),
        (b"INFO sip:a SIP/2.0\r\nX: y\r\n\r\n", "Content-Length", 0),
        (message(b"x", length=b"65536"), "body", 0),
        (message(b"x", length=b"9" * 5000), "body", 0),
        (b"GET / HTTP/1.1\r\n\r\n", "start-line", 6),
        (b"INFO sip:a SIP/2.0 \r\n\r\n", "start-line", 18),
        (b"\x16\x03\x01\x02\x00" * 20 + b"\n", "start-line", 0),
    ],
)
def test_stream_in_path_is_closed_at_what_cannot_be_followed(bad: bytes, place: str, offset: int) -> None:
    framer = Framer()
    assert framer.feed(ONE + bad + TWO) == [ONE]
    assert framer.error is not None
    assert framer.error.place == place
    assert framer.error.offset == len(ONE) + offset
    assert framer.pending == 0
    with pytest.raises(ParseError, match=place):
        framer.feed(TWO)


@pytest.mark.parametrize(
    "bad",
    [
        message(b"x", length=b"-999"),
        message(b"x", length=b"1\r\nl: 2"),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00" * 20 + b"\n",
        b"m=audio 1 RTP/AVP 0\r\na=x\r\n\r\n",
    ],
)
def test_capture_drops_and_counts_what_cannot_be_followed(bad: bytes) -> None:
    result = run([ONE + bad + TWO], resync=True)
    assert (result.messages, result.dropped, result.error) == ([ONE, TWO], len(bad), "")


def test_capture_takes_a_message_without_content_length_as_one_without_body() -> None:
    raw = b"ACK sip:a SIP/2.0\r\nX: y\r\n\r\n"
    assert run([raw + TWO], resync=True).messages == [raw, TWO]


def test_capture_skips_a_body_that_is_too_long_and_goes_on_behind_it() -> None:
    long = message(b"x", b"INFO sip:a SIP/2.0\r\n\r\n" * 10)
    result = run([long + TWO], resync=True, max_body=100)
    assert (result.messages, result.dropped) == ([TWO], len(long))


def test_capture_that_begins_in_the_middle_finds_the_next_start_line() -> None:
    for begin in range(1, len(ONE)):
        result = run([ONE[begin:] + TWO + THREE], resync=True)
        assert result.messages[-2:] == [TWO, THREE], begin
        assert result.dropped + sum(map(len, result.messages)) == len(ONE[begin:].lstrip(b"\r\n") + TWO + THREE)


@pytest.mark.parametrize("tail", [b'{"tail": 1', b"m=audio", b"tail", b"sip:a SIP/2.0 "])
@pytest.mark.parametrize("next_message", [TWO, TWO.replace(b"INFO sip:a@b SIP/2.0", b"SIP/2.0 200 OK")])
def test_start_line_behind_the_tail_of_a_body_is_found_after_a_gap(tail: bytes, next_message: bytes) -> None:
    framer = Framer(resync=True)
    assert framer.feed(ONE[:60]) == []
    framer.gap()
    assert (framer.dropped, framer.pending) == (60, 0)
    assert framer.feed(tail + next_message) == [next_message]
    assert framer.dropped == 60 + len(tail)


def test_gap_inside_a_body_costs_that_message_only() -> None:
    framer = Framer(resync=True)
    assert framer.feed(ONE + THREE[:-5]) == [ONE]
    framer.gap()
    assert framer.feed(b"\r\n\r\n" + TWO + ONE) == [TWO, ONE]
    assert framer.dropped == len(THREE) - 5 + 4
    assert framer.pings == 0


def test_stream_in_path_has_no_gaps() -> None:
    with pytest.raises(ValueError, match="no gaps"):
        Framer().gap()


def test_end_of_the_stream_reports_the_message_it_cut_off() -> None:
    framer = Framer()
    framer.feed(ONE + TWO[:-7])
    assert framer.close() == len(TWO) - 7
    assert (framer.pending, framer.error) == (0, None)
    with pytest.raises(ValueError, match="end of a stream"):
        framer.feed(b"x")


@pytest.mark.parametrize("endless", [b"x", b"INFO sip:a SIP/2.0\r\nX: ", b"INFO sip:a SIP/2.0\r\nX: y\r\n"])
def test_memory_is_bounded_whatever_never_ends(endless: bytes) -> None:
    in_path, capture = Framer(max_headers=2000), Framer(resync=True, max_headers=2000)
    for _ in range(50):
        if not in_path.error:
            in_path.feed(endless * 100)
        capture.feed(endless * 100)
        assert in_path.pending <= 2000
        assert capture.pending <= 2000
    assert in_path.error is not None
    assert capture.dropped >= 50 * 100 * len(endless) - 2000


PIECES = (
    ONE,
    TWO,
    THREE,
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"garbage",
    b"garbage\n",
    b"INFO sip:a SIP/2.0\r\n",
    b"SIP/2.0 200 OK\r\n",
    b"l: 5\r\n",
    b"l: -1\r\n",
    b"Content-Length: 3\n",
    b" folded\r\n",
    message(b"x", length=b"300"),
    b"x" * 80,
    b"ab: cd\r\n" * 20,
)


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.booleans(), st.data())
def test_result_does_not_depend_on_how_the_stream_is_cut(
    pieces: list[bytes], resync: bool, data: st.DataObject
) -> None:
    stream = b"".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=20)))
    chunks = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole = run([stream], resync=resync, max_headers=100, max_body=200)
    assert run(chunks, resync=resync, max_headers=100, max_body=200) == whole
    assert run([bytes([byte]) for byte in stream], resync=resync, max_headers=100, max_body=200) == whole


def test_every_cut_in_two_and_three_gives_the_same() -> None:
    stream = b"\r\n" + ONE + b"junk\r\n\r\n" + TWO + THREE[:40] + message(b"y", length=b"no") + THREE
    for resync in (False, True):
        whole = run([stream], resync=resync)
        for first in range(len(stream)):
            assert run([stream[:first], stream[first:]], resync=resync) == whole
            second = first + (len(stream) - first) // 3
            assert run([stream[:first], stream[first:second], stream[second:]], resync=resync) == whole


@given(st.lists(st.tuples(st.binary(max_size=60), st.sampled_from([b"", b"\r\n", b"\r\n\r\n"])), max_size=6), st.data())
def test_messages_come_out_as_they_went_in(parts: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    sent = [message(b"%d" % number, body) for number, (body, _) in enumerate(parts)]
    stream = b"".join(raw + between for raw, (_, between) in zip(sent, parts, strict=True))
    size = data.draw(st.integers(1, 50))
    chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
    for resync in (False, True):
        result = run(chunks, resync=resync)
        assert (result.messages, result.dropped, result.error) == (sent, 0, "")


def seconds(stream: bytes, size: int, resync: bool) -> float:
    framer = Framer(resync=resync)
    started = time.perf_counter()
    for at in range(0, len(stream), size):
        framer.feed(stream[at : at + size])
    return time.perf_counter() - started


@pytest.mark.parametrize(
    "unit",
    [
        b"\r\n",
        b"x",
        b"INFO ",
        b"SIP/2.0 200 ",
        b"l:1\r\n",
        b"INFO sip:a SIP/2.0\n",
        b"INFO sip:a SIP/2.0\nl:",
        b"INFO sip:a SIP/2.0\nl:1\n",
        message(b"1", b"x" * 100),
        message(b"x", length=b"-1"),
    ],
)
def test_time_is_linear_in_the_bytes(unit: bytes) -> None:
    # A search that starts anew with every byte would need 10^10 steps for these 300 kB: minutes, not seconds.
    stream = unit * (300_000 // len(unit))
    assert seconds(stream, 1, True) < 5
    assert seconds(stream, len(stream), True) < 2
