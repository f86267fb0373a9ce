"""SIP is told by its first line: on any port, in datagrams and in streams, and nothing else is taken for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ingress.layers import Tcp
from agent.ingress.recognition import MAX_BODY, NOT_SIP_AFTER, SipStream, begins_like_sip
from agent.sip.scan import MAX_MESSAGE, scan
from tests.ingress.frames import CLIENT, SERVER

INVITE = (
    b"INVITE sip:+12015550100@example.com SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.10;branch=z9hG4bK1\r\n"
    b"From: <sip:a@example.com>;tag=1\r\nTo: <sip:b@example.com>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n"
    b"Content-Length: 4\r\n\r\nbody"
)
OK = INVITE.replace(b"INVITE sip:+12015550100@example.com SIP/2.0", b"SIP/2.0 200 OK", 1)


@pytest.mark.parametrize(
    "payload",
    [
        INVITE,
        OK,
        b"\r\n\r\n" + INVITE,
        b"OPTIONS tel:911 sip/2.0\r\n\r\n",
        b"!interesting-Method0123456789 a SIP/2.0\n\n",
        b"SIP/2.0 999 broken\r\n\r\n",
        b"INVITE <sip:a@example.com> SIP/2.0\r\n\r\n",
        b"INVITE  sip:a b SIP/2.0 \r\n\r\n",
        b"INVITE sip:a@example.com SIP/7.0\r\n\r\n",
        b"INVITE sip:a@example.com SIP/2.0",
    ],
)
def test_start_lines_good_and_broken_are_recognised(payload: bytes) -> None:
    assert begins_like_sip(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\r\n\r\n",
        b"\0\0\0\0",
        b"\x80\x08\0\1" + bytes(160),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"M-SEARCH * HTTP/1.1\r\n",
        b"\0INVITE sip:a@example.com SIP/2.0\r\n\r\n",
        b"hello\r\nINVITE sip:a SIP/2.0\r\n",
        b"DESCRIBE rtsp://a RTSP/1.0\r\n",
        b"INVITE sip:a@example.com\r\n",
        b"x" * 65 + b" sip:a SIP/2.0\r\n",
    ],
)
def test_everything_else_is_not(payload: bytes) -> None:
    assert not begins_like_sip(payload)


class Ended:
    """What a stream reported."""

    def __init__(self) -> None:
        self.reports: list[bool] = []

    def stream(self, *, from_start: bool = True, port: int = 5060) -> SipStream:
        first = Tcp(CLIENT, SERVER, 40000, port, b"", 0, 1, 0)
        return SipStream(first, from_start, port == 5060, self.reports.append)


@given(st.lists(st.sampled_from([INVITE, OK, b"\r\n\r\n"]), min_size=1, max_size=5), st.data())
@pytest.mark.parametrize("port", [5060, 8080])
def test_messages_of_a_stream_are_the_same_however_it_is_cut(
    port: int, parts: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    stream = Ended().stream(port=port)
    messages = []
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        assert not stream.refused
        messages += stream.feed(whole[begin:end]) if end > begin else []
    assert [m.raw for m in messages] == [p for p in parts if p != b"\r\n\r\n"]
    assert {(m.transport, m.source, m.destination_port) for m in messages} <= {("tcp", CLIENT, port)}
    assert [m.raw for m in stream.feed(INVITE)] == [INVITE]
    assert stream.pending == 0


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\0\1", b"SSH-2.0-x\r\n", b"x" * 5000])
def test_stream_that_begins_with_something_else_on_another_port_is_left_alone_at_once(first: bytes) -> None:
    ended = Ended()
    stream = ended.stream(port=8080)
    assert stream.feed(first) == []
    assert stream.refused
    assert stream.pending == 0
    stream.finish()
    assert ended.reports == []


def test_stream_joined_in_the_middle_on_another_port_is_taken_up_at_a_segment_that_begins_a_message() -> None:
    stream = Ended().stream(from_start=False, port=8080)
    assert stream.feed(b"rest of a body\r\n") == []
    assert not stream.refused
    assert [m.raw for m in stream.feed(INVITE)] == [INVITE]


def test_stream_joined_in_the_middle_is_given_up_after_enough_segments() -> None:
    stream = Ended().stream(from_start=False, port=8080)
    fed = 0
    while not stream.refused:
        stream.feed(b"\x17\x03\x03 noise")
        fed += 1
    assert fed == 64


def test_stream_on_a_sip_port_is_searched_from_its_first_byte_on() -> None:
    stream = Ended().stream(from_start=False)
    assert [m.raw for m in stream.feed(b"the end of something\r\n" + INVITE)] == [INVITE]


def test_gap_inside_a_message_loses_that_message_only() -> None:
    stream = Ended().stream()
    stream.feed(INVITE[:100])
    stream.gap()
    assert [m.raw for m in stream.feed(b"From: lost\r\n\r\n" + INVITE + OK)] == [INVITE, OK]


def test_stream_without_a_message_is_reported_once_and_for_what_it_is() -> None:
    for content, report in ((b"GET / HTTP/1.1\r\n\r\n", [False]), (INVITE[:150], [True]), (b"", []), (INVITE, [])):
        ended = Ended()
        stream = ended.stream()
        if content:
            stream.feed(content)
        stream.finish()
        assert ended.reports == report


def test_endless_stream_without_a_message_is_refused() -> None:
    ended = Ended()
    stream = ended.stream()
    for _ in range(NOT_SIP_AFTER // 1000 + 1):
        stream.feed(b"\x17\x03\x03" + bytes(997))
    assert stream.refused
    stream.finish()
    assert ended.reports == [False]


def test_call_cannot_hide_behind_a_body_larger_than_a_datagram() -> None:
    """What screening needs stands before the body; the body's end is cut so that the message can be read."""
    for size in (65_536, 200_000, MAX_BODY):
        message = INVITE[:-4].replace(b"Length: 4", b"Length: %d" % size) + bytes(size)
        got = Ended().stream().feed(message + OK)
        assert [m.raw for m in got] == [message[:MAX_MESSAGE], OK]
        assert scan(got[0].raw).method == "INVITE"
