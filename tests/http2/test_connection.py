"""A connection answers each thing that a client may do, and each that he must not, with what RFC 9113 has for it."""

import itertools

import pytest

from agent.http2 import frames
from agent.http2.errors import Code, StreamFault
from agent.http2.frames import ACK, END_HEADERS, END_STREAM, PADDED, Kind
from agent.http2.headers import block
from agent.http2.limits import Limits
from agent.http2.settings import Setting
from agent.http2.streams import TABLE, Event, State, Stream
from tests.http2.client import ASK, DONE, HEAD, Served, data, goaway_of, headers, resets_of

SMALL = Limits(streams=2, stream_window=1000, connection_window=70_000, out_bytes=4000)


def test_a_request_is_heard_and_its_response_comes_in_one_piece() -> None:
    served = Served()
    heard = served.ask(1, b"question")
    assert (heard.body, heard.ended, dict(heard.headers)[b":path"]) == (b"question", True, b"/x")
    served.connection.respond(heard.stream, HEAD, b"answer", DONE)
    head, body, trailers = served.say()
    assert head == (Kind.HEADERS, END_HEADERS, 1, HEAD)
    assert body == (Kind.DATA, 0, 1, b"answer")
    assert trailers == (Kind.HEADERS, END_HEADERS | END_STREAM, 1, DONE)
    assert not served.connection.streams


def test_the_table_of_states_lists_all_that_may_happen_and_nothing_else() -> None:
    for state, event in itertools.product(State, Event):
        stream = Stream(1, 0, 0)
        stream.state = state
        if (state, event) in TABLE:
            stream.move(event)
            assert stream.state is TABLE[state, event]
        else:
            with pytest.raises(StreamFault):
                stream.move(event)
            assert stream.state is state


def test_who_is_answered_before_he_has_said_all_is_told_not_to_go_on() -> None:
    served = Served()
    heard = served.ask(1)
    served.connection.end(heard.stream, DONE)
    assert resets_of(served.say()) == [(1, Code.NO_ERROR)]
    assert served.say(data(1, b"more", ended=True)) == [], "what was on its way is no error"


def test_pings_and_settings_are_acknowledged() -> None:
    served = Served()
    answer = served.say(frames.frame(Kind.PING, 0, 0, b"12345678"), frames.settings({Setting.MAX_FRAME_SIZE: 20_000}))
    assert answer == [(Kind.PING, ACK, 0, b"12345678"), (Kind.SETTINGS, ACK, 0, b"")]
    served.connection.ping()
    assert [kind for kind, *_ in served.say()] == [Kind.PING]
    served.say(frames.frame(Kind.PING, ACK, 0, bytes(8)))
    assert served.connection.pings_answered == 1


def test_headers_may_come_in_parts_with_padding_and_priority() -> None:
    served = Served()
    first = frames.frame(Kind.HEADERS, PADDED | frames.PRIORITISED, 1, b"\x02\0\0\0\0\x10" + ASK[:3] + b"\0\0")
    served.say(first, frames.frame(Kind.CONTINUATION, 0, 1, ASK[3:9]))
    assert 1 not in served.heard
    served.say(frames.frame(Kind.CONTINUATION, END_HEADERS, 1, ASK[9:]))
    assert dict(served.heard[1].headers)[b":path"] == b"/x"
    served.say(frames.frame(Kind.DATA, PADDED | END_STREAM, 1, b"\x03body\0\0\0"))
    assert (served.heard[1].body, served.heard[1].ended) == (b"body", True)


def test_trailers_of_a_request_end_it() -> None:
    served = Served()
    heard = served.ask(1)
    served.say(data(1, b"x"), headers(1, block([(b"t", b"1")]), ended=True))
    assert (heard.body, heard.ended) == (b"x", True)


PING = frames.frame(Kind.PING, 0, 0, bytes(8))
FORBIDDEN = {
    "no-preface": (b"GET / HTTP/1.1\r\n\r\n", Code.PROTOCOL_ERROR),
    "no-settings-first": (frames.PREFACE + PING, Code.PROTOCOL_ERROR),
    "settings-ack-first": (frames.PREFACE + frames.SETTINGS_ACK, Code.PROTOCOL_ERROR),
}
GREETED = {
    "frame-too-long": (frames.head(70_000, Kind.DATA, 0, 1), Code.FRAME_SIZE_ERROR),
    "data-of-stream-0": (data(0, b"x"), Code.PROTOCOL_ERROR),
    "data-of-no-stream": (data(1, b"x"), Code.PROTOCOL_ERROR),
    "headers-of-stream-0": (headers(0), Code.PROTOCOL_ERROR),
    "stream-of-a-server": (headers(2), Code.PROTOCOL_ERROR),
    "number-used-before": (headers(5) + headers(3), Code.PROTOCOL_ERROR),
    "rst-of-no-stream": (frames.rst_stream(1, Code.CANCEL), Code.PROTOCOL_ERROR),
    "rst-of-stream-0": (frames.rst_stream(0, Code.CANCEL), Code.PROTOCOL_ERROR),
    "rst-too-short": (frames.frame(Kind.RST_STREAM, 0, 1, b"abc"), Code.FRAME_SIZE_ERROR),
    "push": (frames.frame(Kind.PUSH_PROMISE, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "priority-of-stream-0": (frames.frame(Kind.PRIORITY, 0, 0, bytes(5)), Code.PROTOCOL_ERROR),
    "settings-of-a-stream": (frames.frame(Kind.SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    "settings-ack-with-content": (frames.frame(Kind.SETTINGS, ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    "settings-cut": (frames.frame(Kind.SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
    "settings-push-2": (frames.settings({Setting.ENABLE_PUSH: 2}), Code.PROTOCOL_ERROR),
    "settings-window": (frames.settings({Setting.INITIAL_WINDOW_SIZE: 1 << 31}), Code.FLOW_CONTROL_ERROR),
    "settings-frame": (frames.settings({Setting.MAX_FRAME_SIZE: 16_383}), Code.PROTOCOL_ERROR),
    "ping-of-a-stream": (frames.frame(Kind.PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "ping-short": (frames.frame(Kind.PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "goaway-of-a-stream": (frames.frame(Kind.GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "goaway-short": (frames.frame(Kind.GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "window-of-no-stream": (frames.window_update(7, 1), Code.PROTOCOL_ERROR),
    "window-by-nothing": (frames.window_update(0, 0), Code.PROTOCOL_ERROR),
    "window-too-wide": (frames.window_update(0, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
    "continuation-of-nothing": (frames.frame(Kind.CONTINUATION, END_HEADERS, 1, ASK), Code.PROTOCOL_ERROR),
    "block-interrupted": (frames.frame(Kind.HEADERS, 0, 1, ASK) + PING, Code.PROTOCOL_ERROR),
    "block-goes-on-elsewhere": (
        frames.frame(Kind.HEADERS, 0, 1, ASK) + frames.frame(Kind.CONTINUATION, END_HEADERS, 3, b""),
        Code.PROTOCOL_ERROR,
    ),
    "padding-too-long": (frames.frame(Kind.HEADERS, END_HEADERS | PADDED, 1, b"\xff" + ASK), Code.PROTOCOL_ERROR),
    "block-that-is-none": (headers(1, b"\x80"), Code.COMPRESSION_ERROR),
}


@pytest.mark.parametrize("case", [*FORBIDDEN, *GREETED])
def test_what_must_not_be_sent_ends_the_connection_with_its_code(case: str) -> None:
    said, code = FORBIDDEN.get(case) or GREETED[case]
    served = Served(greet=case in GREETED)
    assert goaway_of(served.say(said))[0] is code
    assert served.connection.ended
    assert served.counts["faults"] == 1
    assert served.say(PING) == [], "nobody listens any more"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (frames.window_update(1, 0), Code.PROTOCOL_ERROR),
        (frames.window_update(1, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
        (headers(1), Code.PROTOCOL_ERROR),
        (frames.frame(Kind.PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
        (data(1, b"", ended=True) + data(1, b"x"), Code.STREAM_CLOSED),
        (data(1, bytes(1001)), Code.FLOW_CONTROL_ERROR),
    ],
    ids=["window-by-nothing", "window-too-wide", "headers-in-a-body", "priority", "after-the-end", "beyond-the-window"],
)
def test_what_is_wrong_on_a_stream_ends_it_and_no_other(said: bytes, code: Code) -> None:
    served = Served(SMALL)
    heard, other = served.ask(1), served.ask(3)
    assert resets_of(served.say(said)) == [(1, code)]
    assert (heard.was_reset, other.was_reset) == (code, None)
    served.connection.respond(other.stream, HEAD, b"good", DONE)
    assert [payload for kind, *_, payload in served.say() if kind == Kind.DATA] == [b"good"]


def test_more_streams_than_agreed_are_refused_and_may_be_tried_again() -> None:
    served = Served(SMALL)
    served.ask(1), served.ask(3)
    assert resets_of(served.say(headers(5))) == [(5, Code.REFUSED_STREAM)]
    served.connection.respond(served.heard[1].stream, HEAD, b"", DONE)
    served.ask(7, b"x")
    assert served.heard[7].body == b"x"


def test_a_cancelled_stream_is_over_and_says_so_once() -> None:
    served = Served()
    heard = served.ask(1)
    served.say(frames.rst_stream(1, Code.CANCEL))
    assert heard.was_reset is Code.CANCEL
    assert not served.connection.streams
    assert served.say(frames.window_update(1, 5), frames.rst_stream(1, Code.CANCEL)) == []


def test_a_call_that_its_client_has_left_before_we_looked_is_not_begun() -> None:
    served = Served()
    served.say(headers(1) + data(1, b"x", ended=True) + headers(3) + frames.rst_stream(1, Code.CANCEL))
    assert list(served.heard) == [3]
    assert served.counts["forsaken"] == 1
    assert list(served.connection.streams) == [3]


# -- windows --------------------------------------------------------------------------------------------------------


def sent_on(answer: list[frames.Frame], number: int) -> bytes:
    return b"".join(payload for kind, _, n, payload in answer if kind == Kind.DATA and n == number)


def test_a_body_waits_for_the_clients_window_and_others_do_not_wait_for_it() -> None:
    served = Served()
    served.say(frames.settings({Setting.INITIAL_WINDOW_SIZE: 10}))
    heard, other = served.ask(1), served.ask(3)
    connection = served.connection
    connection.begin(heard.stream, HEAD)
    assert not connection.send(heard.stream, b"0123456789abcde")
    connection.end(heard.stream, DONE)
    connection.respond(other.stream, HEAD, b"short", DONE)
    answer = served.say()
    assert (sent_on(answer, 1), sent_on(answer, 3)) == (b"0123456789", b"short")
    answer = served.say(frames.window_update(1, 100))
    assert sent_on(answer, 1) == b"abcde"
    assert answer[-2][:3] == (Kind.HEADERS, END_HEADERS | END_STREAM, 1), "the trailers came behind it"
    assert heard.rooms == 0, "the stream was over"


def test_a_window_may_become_negative_and_the_connections_holds_for_all() -> None:
    served = Served()
    heard = served.ask(1)
    served.connection.begin(heard.stream, HEAD)
    assert served.connection.send(heard.stream, bytes(65_000))
    served.say(frames.settings({Setting.INITIAL_WINDOW_SIZE: 100}))
    assert heard.stream.send_window == 100 - 65_000
    assert not served.connection.send(heard.stream, b"x")
    other = served.ask(3)
    assert sent_on(served.say(frames.settings({Setting.INITIAL_WINDOW_SIZE: 100_000})), 1) == b"x"
    served.connection.begin(other.stream, HEAD)
    assert not served.connection.send(other.stream, bytes(1000))
    assert len(sent_on(served.say(), 3)) == 65_535 - 65_001
    assert len(sent_on(served.say(frames.window_update(0, 10_000)), 3)) == 1000 - (65_535 - 65_001)
    assert other.rooms == 1


def test_one_turn_sends_no_more_than_agreed_and_streams_take_turns() -> None:
    served = Served(SMALL)
    served.say(frames.window_update(0, 1 << 20), frames.settings({Setting.INITIAL_WINDOW_SIZE: 1 << 20}))
    connection = served.connection
    streams = [served.ask(number).stream for number in (1, 3)]
    for stream in streams:
        connection.begin(stream, HEAD)
        connection.send(stream, bytes(50_000))
    assert connection.out.bytes < 2 * 16_384 + 4000
    turns = 0
    while connection.out.cramped:
        out = connection.take()
        assert len(out) < 2 * 16_384 + 4000
        connection.work(0.0)
        turns += 1
    assert turns >= 4
    assert not any(stream.waiting for stream in streams)


def test_a_transport_that_takes_no_more_is_given_no_bodies() -> None:
    served = Served()
    heard = served.ask(1)
    served.connection.out.paused = True
    served.connection.respond(heard.stream, HEAD, b"answer", DONE)
    assert sent_on(served.say(), 1) == b""
    assert served.connection.has_unsent
    served.connection.out.paused = False
    assert sent_on(served.say(), 1) == b"answer"
    assert not served.connection.has_unsent


def test_what_is_taken_is_credited_and_what_is_not_closes_the_window() -> None:
    served = Served(SMALL)
    heard = served.ask(1)
    assert served.say(data(1, bytes(900))) == []
    served.connection.credit(heard.stream, 900)
    assert served.say() == [(Kind.WINDOW_UPDATE, 0, 1, (900).to_bytes(4, "big"))]
    served.say(data(1, bytes(1000)))
    assert resets_of(served.say(data(1, b"x"))) == [(1, Code.FLOW_CONTROL_ERROR)]


def test_the_connections_window_is_widened_as_it_is_used() -> None:
    served = Served(Limits(connection_window=70_000))
    heard = served.ask(1)
    answer = []
    for _ in range(20):
        answer += served.say(data(1, bytes(10_000)))
        served.connection.credit(heard.stream, 10_000)
    widened = sum(frames.word_of(payload) for kind, _, n, payload in answer if kind == Kind.WINDOW_UPDATE and n == 0)
    assert 130_000 <= widened <= 200_000


def test_who_keeps_less_of_our_table_hears_once_that_we_keep_none() -> None:
    served = Served()
    served.say(frames.settings({Setting.HEADER_TABLE_SIZE: 0}))
    served.decoder.max_allowed_table_size = 0
    for number in (1, 3):
        served.connection.respond(served.ask(number).stream, HEAD, b"x", DONE)
        blocks = [payload for kind, _, _, payload in served.say() if kind == Kind.HEADERS]
        decoded = [tuple(pair) for each in blocks for pair in served.decoder.decode(each, raw=True)]
        assert decoded == [(b":status", b"200"), (b"grpc-status", b"0")]


# -- the end --------------------------------------------------------------------------------------------------------


def test_after_goaway_what_was_begun_is_answered_and_nothing_new_is() -> None:
    served = Served()
    heard = served.ask(1)
    served.connection.leave()
    assert goaway_of(served.say()) == (Code.NO_ERROR, "")
    assert served.say(headers(3)) == []
    assert list(served.heard) == [1]
    served.connection.respond(heard.stream, HEAD, b"answer", DONE)
    assert sent_on(served.say(), 1) == b"answer"


def test_a_lost_connection_ends_every_stream() -> None:
    served = Served()
    heard = [served.ask(number) for number in (1, 3)]
    served.connection.close()
    assert [each.was_reset for each in heard] == [Code.CANCEL] * 2
    assert not served.connection.streams
