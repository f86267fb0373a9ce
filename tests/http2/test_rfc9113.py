"""RFC 9113, sections 5 to 8, as one table: what a client says, and what he is told for it.

The cases are those that a conformance test of servers has. A stream in a state is one of these: 1 is open, 3 is
half-closed (the client has said all), 5 was reset by the client, 7 is closed by both ends, 9 was reset by us, 11 was
never used, since 13 came after it; 15 and above are idle. The requests are read as those of gRPC's server are.
"""

from collections import Counter

import pytest

from agent.http2 import frames
from agent.http2.connection import Connection
from agent.http2.errors import Code
from agent.http2.frames import ACK, END_HEADERS, END_STREAM, PADDED, PRIORITISED, Frame, FrameReader, Kind
from agent.http2.headers import HeaderList, block
from agent.http2.limits import WINDOW_MAX, Limits
from agent.http2.settings import Setting
from agent.http2.streams import Stream
from agent.rpc.link import check_request, check_trailers
from agent.rpc.request import Request, read_request
from tests.http2.client import DONE, HEAD, Heard, data, goaway_of, headers, resets_of

OPEN, HALF, RESET, CLOSED, LEFT, UNUSED, LAST, IDLE = 1, 3, 5, 7, 9, 11, 13, 15
LIMITS = Limits(streams=4, stream_window=1000)
PING = frames.frame(Kind.PING, 0, 0, bytes(8))
PRIORITY = (LAST).to_bytes(4, "big") + b"\x10"
P, F, W, S = Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR, Code.FLOW_CONTROL_ERROR, Code.STREAM_CLOSED
CALM, COMPRESSION, REFUSED = Code.ENHANCE_YOUR_CALM, Code.COMPRESSION_ERROR, Code.REFUSED_STREAM

METHOD, SCHEME, PATH, AUTHORITY = (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"x")
GRPC = [METHOD, SCHEME, PATH, (b"content-type", b"application/grpc")]


class Server:
    """A connection with streams in every state, and its client's end."""

    def __init__(self) -> None:
        self.heard: dict[int, Heard] = {}
        self._reader = FrameReader(1 << 24)
        self.connection: Connection[Request] = Connection(LIMITS, read_request, self._accept, check_trailers, Counter())
        self.say(frames.PREFACE, frames.settings({}))
        self.say(*(headers(number, ASK) for number in (OPEN, HALF, RESET, CLOSED)))
        self.say(data(HALF, b"", True), data(CLOSED, b"", True), frames.rst_stream(RESET, Code.CANCEL))
        self.connection.respond(self.heard[CLOSED].stream, HEAD, b"", DONE)
        self.say(headers(LEFT, ASK))
        self.connection.reset(self.heard[LEFT].stream, Code.CANCEL)
        self.say(headers(LAST, ASK))
        assert not self.connection.ended

    def _accept(self, stream: Stream, request: Request) -> Heard:
        check_request(stream, request)
        heard = self.heard[stream.number] = Heard(stream, [])
        return heard

    def say(self, *said: bytes) -> list[Frame]:
        self.connection.receive(b"".join(said))
        while self.connection.work(0.0):
            pass
        return self._reader.read(self.connection.take())[0]


ASK = block(GRPC)


def asking(*pairs: tuple[bytes, bytes], ended: bool = True) -> bytes:
    """A request with exactly these headers, on a new stream."""
    return headers(IDLE, block(pairs), ended)


def trailing(*pairs: tuple[bytes, bytes], ended: bool = True) -> bytes:
    """A body on the open stream, and these behind it."""
    return data(OPEN, b"x") + headers(OPEN, block(pairs), ended)


def with_length(*values: bytes) -> HeaderList:
    return [*GRPC, *((b"content-length", value) for value in values)]


FINE = {
    "4.1 unknown type": b"\0\0\x08\x16\0\0\0\0\0" + bytes(8),
    "4.1 undefined flags": frames.frame(Kind.PING, 0xFE, 0, bytes(8)),
    "4.1 reserved bit": frames.head(8, Kind.PING, 0, 1 << 31) + bytes(8),
    "4.2 the longest frame that we take": data(OPEN, bytes(900)),
    "5.1 priority of an idle stream": frames.frame(Kind.PRIORITY, 0, IDLE, PRIORITY),
    "5.1 priority of one that cannot be": frames.frame(Kind.PRIORITY, 0, 2, PRIORITY),
    "5.1 priority of a half-closed stream": frames.frame(Kind.PRIORITY, 0, HALF, PRIORITY),
    "5.1 priority of a closed stream": frames.frame(Kind.PRIORITY, 0, CLOSED, PRIORITY),
    "5.1 window of a half-closed stream": frames.window_update(HALF, 1),
    "5.1 window of a closed stream": frames.window_update(CLOSED, 1),
    "5.1 window of a stream that the client has reset": frames.window_update(RESET, 1),
    "5.1 reset of a closed stream": frames.rst_stream(CLOSED, Code.CANCEL),
    "5.1 reset of a half-closed stream": frames.rst_stream(HALF, Code.CANCEL),
    "5.1 data of one that we have reset": data(LEFT, b"x"),
    "5.1 headers of one that we have reset": headers(LEFT, ASK),
    "5.1 trailers of one that we have reset": headers(LEFT, DONE, True),
    "5.1 window of one that we have reset": frames.window_update(LEFT, 1),
    "5.1.1 the next stream": headers(IDLE, ASK),
    "5.1.1 a stream further on": headers(IDLE + 100, ASK),
    "5.5 extension between requests": b"\0\0\1\xff\xff\0\0\0\1x",
    "6.1 padding": frames.frame(Kind.DATA, PADDED, OPEN, b"\x03x" + bytes(3)),
    "6.1 nothing but padding": frames.frame(Kind.DATA, PADDED, OPEN, b"\x03" + bytes(3)),
    "6.1 no data and the end": data(OPEN, b"", True),
    "6.2 priority": frames.frame(Kind.HEADERS, END_HEADERS | PRIORITISED, IDLE, PRIORITY + ASK),
    "6.2 padding": frames.frame(Kind.HEADERS, END_HEADERS | PADDED, IDLE, b"\x02" + ASK + bytes(2)),
    "6.2 in parts": frames.frame(Kind.HEADERS, END_STREAM, IDLE, ASK[:4])
    + frames.frame(Kind.CONTINUATION, 0, IDLE, ASK[4:6])
    + frames.frame(Kind.CONTINUATION, END_HEADERS, IDLE, ASK[6:]),
    "6.4 unknown code": frames.frame(Kind.RST_STREAM, 0, OPEN, b"\0\0\0\xff"),
    "6.5 none": frames.settings({}),
    "6.5 acknowledged": frames.SETTINGS_ACK,
    "6.5.2 unknown": frames.settings({0xFF: 1}),
    "6.5.2 push": frames.settings({Setting.ENABLE_PUSH: 1}),
    "6.5.2 frames": frames.settings({Setting.MAX_FRAME_SIZE: (1 << 24) - 1}),
    "6.5.2 window": frames.settings({Setting.INITIAL_WINDOW_SIZE: WINDOW_MAX}),
    "6.5.2 a window of nothing": frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}),
    "6.7 unasked pong": frames.frame(Kind.PING, ACK, 0, bytes(8)),
    "6.8 unknown code": frames.frame(Kind.GOAWAY, 0, 0, bytes(7) + b"\xff"),
    "6.9 reserved bit": frames.frame(Kind.WINDOW_UPDATE, 0, OPEN, b"\x80\0\0\1"),
    "6.9.1 the widest window": frames.window_update(OPEN, WINDOW_MAX - 65_535),
    "8.1 trailers": trailing((b"t", b"1")),
    "8.2.2 te": asking(*GRPC, (b"te", b"trailers")),
    "8.3.1 authority": asking(METHOD, SCHEME, PATH, AUTHORITY),
    "8.1.1 length": headers(IDLE, block(with_length(b"3"))) + data(IDLE, b"x") + data(IDLE, b"yz", True),
    "8.1.1 the same length twice": headers(IDLE, block(with_length(b"1", b"1"))) + data(IDLE, b"x", True),
    "8.1.1 length and trailers": headers(IDLE, block(with_length(b"1"))) + data(IDLE, b"x") + headers(IDLE, DONE, True),
    "8.1.1 a length of nothing": asking(*with_length(b"0")),
    "8.5 CONNECT": asking((b":method", b"CONNECT"), AUTHORITY),
}

STREAM = {
    "5.1 half-closed: DATA": (data(HALF, b"x"), HALF, S),
    "5.1 half-closed: HEADERS": (headers(HALF, DONE), HALF, S),
    "5.1 half-closed: HEADERS with the end": (headers(HALF, DONE, True), HALF, S),
    "5.1 reset by the client: DATA": (data(RESET, b"x"), RESET, S),
    "5.1 closed: DATA": (data(CLOSED, b"x"), CLOSED, S),
    "5.1.2 one stream too many": (headers(15, ASK) + headers(17, ASK), 17, REFUSED),
    "6.3 priority too short": (frames.frame(Kind.PRIORITY, 0, OPEN, bytes(4)), OPEN, F),
    "6.3 priority too long": (frames.frame(Kind.PRIORITY, 0, OPEN, bytes(6)), OPEN, F),
    "6.3 of itself": (frames.frame(Kind.PRIORITY, 0, OPEN, b"\x80\0\0\x01\0"), OPEN, P),
    "6.9 by nothing": (frames.window_update(OPEN, 0), OPEN, P),
    "6.9.1 too wide": (frames.window_update(OPEN, WINDOW_MAX), OPEN, W),
    "6.9.1 too wide in two steps": (frames.window_update(OPEN, WINDOW_MAX - 65_535) * 2, OPEN, W),
    "6.9.1 beyond our window": (data(OPEN, bytes(1001)), OPEN, W),
    "6.9.1 padding counts": (frames.frame(Kind.DATA, PADDED, OPEN, b"\xc8" + bytes(1000)), OPEN, W),
    "8.1 headers in a body": (trailing((b"t", b"1"), ended=False), OPEN, P),
    "8.1 pseudo-header in trailers": (trailing((b":path", b"/x")), OPEN, P),
    "8.1 status in trailers": (trailing((b":status", b"200")), OPEN, P),
    "8.2.1 capitals in trailers": (trailing((b"T", b"1")), OPEN, P),
    "8.2.1 capitals": (asking(*GRPC, (b"X-Test", b"1")), IDLE, P),
    "8.2.1 blank in a name": (asking(*GRPC, (b"x y", b"1")), IDLE, P),
    "8.2.1 colon in a name": (asking(*GRPC, (b"x:y", b"1")), IDLE, P),
    "8.2.1 empty name": (asking(*GRPC, (b"", b"1")), IDLE, P),
    "8.2.1 end of line in a value": (asking(*GRPC, (b"x", b"1\r\n2")), IDLE, P),
    "8.2.1 zero in a value": (asking(*GRPC, (b"x", b"\0")), IDLE, P),
    "8.2.1 blank before a value": (asking(*GRPC, (b"x", b" 1")), IDLE, P),
    "8.2.1 end of line in a pseudo-header": (asking(METHOD, SCHEME, (b":path", b"/x\r\n")), IDLE, P),
    "8.2.2 connection": (asking(*GRPC, (b"connection", b"keep-alive")), IDLE, P),
    "8.2.2 transfer-encoding": (asking(*GRPC, (b"transfer-encoding", b"chunked")), IDLE, P),
    "8.2.2 te": (asking(*GRPC, (b"te", b"trailers, deflate")), IDLE, P),
    "8.3 unknown pseudo-header": (asking(*GRPC[:3], (b":test", b"x")), IDLE, P),
    "8.3 pseudo-header of responses": (asking(*GRPC[:3], (b":status", b"200")), IDLE, P),
    "8.3 pseudo-header behind others": (asking(METHOD, SCHEME, (b"x", b"1"), PATH), IDLE, P),
    "8.3.1 no method": (asking(SCHEME, PATH), IDLE, P),
    "8.3.1 no scheme": (asking(METHOD, PATH), IDLE, P),
    "8.3.1 no path": (asking(METHOD, SCHEME), IDLE, P),
    "8.3.1 empty path": (asking(METHOD, SCHEME, (b":path", b"")), IDLE, P),
    "8.3.1 two methods": (asking(METHOD, METHOD, SCHEME, PATH), IDLE, P),
    "8.3.1 two schemes": (asking(METHOD, SCHEME, SCHEME, PATH), IDLE, P),
    "8.3.1 two paths": (asking(METHOD, SCHEME, PATH, PATH), IDLE, P),
    "8.3.1 two authorities": (asking(*GRPC[:3], AUTHORITY, AUTHORITY), IDLE, P),
    "8.1.1 more than its length": (headers(IDLE, block(with_length(b"1"))) + data(IDLE, b"xy", True), IDLE, P),
    "8.1.1 less than its length": (headers(IDLE, block(with_length(b"3"))) + data(IDLE, b"xy", True), IDLE, P),
    "8.1.1 less in several frames": (
        headers(IDLE, block(with_length(b"5"))) + data(IDLE, b"xy") + data(IDLE, b"xy", True), IDLE, P,
    ),
    "8.1.1 more before the end": (headers(IDLE, block(with_length(b"1"))) + data(IDLE, b"xy"), IDLE, P),
    "8.1.1 less, and trailers": (
        headers(IDLE, block(with_length(b"2"))) + data(IDLE, b"x") + headers(IDLE, DONE, True), IDLE, P,
    ),
    "8.1.1 length of no body": (asking(*with_length(b"1")), IDLE, P),
    "8.1.1 no number": (asking(*with_length(b"-1")), IDLE, P),
    "8.1.1 two lengths": (asking(*with_length(b"1", b"2")), IDLE, P),
    "8.5 CONNECT with a path": (asking((b":method", b"CONNECT"), AUTHORITY, PATH), IDLE, P),
    "8.5 CONNECT with a scheme": (asking((b":method", b"CONNECT"), SCHEME, AUTHORITY), IDLE, P),
    "8.5 CONNECT to nobody": (asking((b":method", b"CONNECT")), IDLE, P),
}  # fmt: skip

HALF_A_BLOCK = frames.frame(Kind.HEADERS, END_STREAM, IDLE, ASK[:4])
CONNECTION = {
    "4.2 too long": (frames.head(65_537, Kind.DATA, 0, OPEN), F),
    "4.2 too long, of any type": (frames.head(65_537, Kind.PING, 0, 0), F),
    "4.3 a block that is none": (headers(IDLE, b"\x80"), COMPRESSION),
    "4.3 a block that is none, of a refused stream": (headers(15) + headers(17) + headers(19, b"\x80"), COMPRESSION),
    "4.3 a block that is none, of a closed stream": (headers(LEFT, b"\x80"), COMPRESSION),
    "4.3 PRIORITY within a block": (HALF_A_BLOCK + frames.frame(Kind.PRIORITY, 0, OPEN, PRIORITY), P),
    "4.3 HEADERS of another within a block": (HALF_A_BLOCK + headers(IDLE + 2, ASK), P),
    "4.3 HEADERS within a block": (HALF_A_BLOCK + headers(IDLE, ASK), P),
    "4.3 DATA within a block": (HALF_A_BLOCK + data(OPEN, b"x"), P),
    "5.5 extension within a block": (HALF_A_BLOCK + b"\0\0\0\xff\0\0\0\0\0", P),
    "5.1 idle: DATA": (data(IDLE, b"x"), P),
    "5.1 idle: RST_STREAM": (frames.rst_stream(IDLE, Code.CANCEL), P),
    "5.1 idle: WINDOW_UPDATE": (frames.window_update(IDLE, 1), P),
    "5.1 idle: CONTINUATION": (frames.frame(Kind.CONTINUATION, END_HEADERS, IDLE, ASK), P),
    "5.1 half-closed: CONTINUATION": (frames.frame(Kind.CONTINUATION, END_HEADERS, HALF, ASK), P),
    "5.1 reset by the client: HEADERS": (headers(RESET, ASK, True), S),
    "5.1 reset by the client: CONTINUATION": (frames.frame(Kind.CONTINUATION, END_HEADERS, RESET, ASK), P),
    "5.1 closed: HEADERS": (headers(CLOSED, ASK, True), S),
    "5.1 closed: a new request": (headers(CLOSED, ASK), S),
    "5.1 closed: CONTINUATION": (frames.frame(Kind.CONTINUATION, END_HEADERS, CLOSED, ASK), P),
    "5.1.1 even": (headers(IDLE + 1, ASK, True), P),
    "5.1.1 even, and passed": (headers(2, ASK, True), P),
    "5.1.1 passed over": (headers(UNUSED, ASK, True), P),
    "5.1.1 nothing": (headers(0, ASK, True), P),
    "6.1 of no stream": (data(0, b"x"), P),
    "6.1 too much padding": (frames.frame(Kind.DATA, PADDED, OPEN, b"\x05" + bytes(4)), P),
    "6.1 too much padding on a closed stream": (frames.frame(Kind.DATA, PADDED, CLOSED, b"\xff"), P),
    "6.1 padded, and empty": (frames.frame(Kind.DATA, PADDED, OPEN), F),
    "6.2 too much padding": (frames.frame(Kind.HEADERS, END_HEADERS | PADDED, IDLE, b"\xff" + ASK), P),
    "6.2 prioritised, and too short": (frames.frame(Kind.HEADERS, END_HEADERS | PRIORITISED, IDLE, b"\0"), F),
    "5.3.1 HEADERS that depend on themselves": (
        frames.frame(Kind.HEADERS, END_HEADERS | PRIORITISED, IDLE, IDLE.to_bytes(4, "big") + b"\0" + ASK), P,
    ),
    "5.3.1 an idle stream that depends on itself": (
        frames.frame(Kind.PRIORITY, 0, IDLE, IDLE.to_bytes(4, "big") + b"\0"), P,
    ),
    "6.3 of no stream": (frames.frame(Kind.PRIORITY, 0, 0, PRIORITY), P),
    "6.3 too short, of an idle stream": (frames.frame(Kind.PRIORITY, 0, IDLE, bytes(4)), F),
    "6.4 of no stream": (frames.rst_stream(0, Code.CANCEL), P),
    "6.4 too short": (frames.frame(Kind.RST_STREAM, 0, OPEN, bytes(3)), F),
    "6.4 too long": (frames.frame(Kind.RST_STREAM, 0, OPEN, bytes(5)), F),
    "6.5 of a stream": (frames.frame(Kind.SETTINGS, 0, OPEN), P),
    "6.5 acknowledged with content": (frames.frame(Kind.SETTINGS, ACK, 0, bytes(6)), F),
    "6.5 cut": (frames.frame(Kind.SETTINGS, 0, 0, bytes(7)), F),
    "6.5.2 push": (frames.settings({Setting.ENABLE_PUSH: 2}), P),
    "6.5.2 window": (frames.settings({Setting.INITIAL_WINDOW_SIZE: WINDOW_MAX + 1}), W),
    "6.5.2 frames too short": (frames.settings({Setting.MAX_FRAME_SIZE: 16_383}), P),
    "6.5.2 frames too long": (frames.settings({Setting.MAX_FRAME_SIZE: 1 << 24}), P),
    "6.6 push": (frames.frame(Kind.PUSH_PROMISE, END_HEADERS, OPEN, bytes(4) + ASK), P),
    "6.7 of a stream": (frames.frame(Kind.PING, 0, OPEN, bytes(8)), P),
    "6.7 too short": (frames.frame(Kind.PING, 0, 0, bytes(7)), F),
    "6.7 too long": (frames.frame(Kind.PING, 0, 0, bytes(9)), F),
    "6.8 of a stream": (frames.frame(Kind.GOAWAY, 0, OPEN, bytes(8)), P),
    "6.8 too short": (frames.frame(Kind.GOAWAY, 0, 0, bytes(7)), F),
    "6.9 of the connection, by nothing": (frames.window_update(0, 0), P),
    "6.9 too short": (frames.frame(Kind.WINDOW_UPDATE, 0, OPEN, bytes(3)), F),
    "6.9 too long": (frames.frame(Kind.WINDOW_UPDATE, 0, OPEN, bytes(5)), F),
    "6.9.1 too wide": (frames.window_update(0, WINDOW_MAX), W),
    "6.9.2 settings that make a window too wide": (
        frames.window_update(OPEN, 1) + frames.settings({Setting.INITIAL_WINDOW_SIZE: WINDOW_MAX}), W,
    ),
    "6.10 of no stream": (frames.frame(Kind.HEADERS, 0, IDLE, ASK) + frames.frame(Kind.CONTINUATION, 4, 0), P),
    "6.10 behind the end of a block": (headers(IDLE, ASK) + frames.frame(Kind.CONTINUATION, 4, IDLE, ASK), P),
    "6.10 behind DATA": (data(OPEN, b"x") + frames.frame(Kind.CONTINUATION, 4, OPEN, ASK), P),
    "10.5 settings without end": (frames.frame(Kind.SETTINGS, 0, 0, bytes(6 * 65)), CALM),
}  # fmt: skip


@pytest.mark.parametrize("case", FINE)
def test_what_may_be_said_ends_nothing(case: str) -> None:
    server = Server()
    answer = server.say(FINE[case], PING)
    assert not server.connection.ended
    assert resets_of(answer) == []
    assert (Kind.PING, ACK, 0, bytes(8)) in answer


@pytest.mark.parametrize("case", STREAM)
def test_what_is_wrong_on_a_stream_ends_that_stream(case: str) -> None:
    server = Server()
    said, number, code = STREAM[case]
    answer = server.say(said, PING)
    assert resets_of(answer) == [(number, code)]
    assert number not in server.connection.streams
    assert answer[-1] == (Kind.PING, ACK, 0, bytes(8)), "and nothing else"


@pytest.mark.parametrize("case", CONNECTION)
def test_what_is_wrong_with_the_connection_ends_it(case: str) -> None:
    server = Server()
    said, code = CONNECTION[case]
    answer = server.say(said, PING)
    assert goaway_of(answer)[0] is code
    assert server.connection.ended
    assert not server.connection.streams
    assert server.say(PING) == []


def test_a_good_bye_never_takes_more_streams_than_the_one_before() -> None:
    server = Server()
    server.connection.leave()
    server.say(headers(IDLE, ASK), data(IDLE, b"for somebody else"))
    (last,) = [payload for kind, _, _, payload in server.say(data(0, b"")) if kind == Kind.GOAWAY]
    assert int.from_bytes(last[:4], "big") == LAST


def test_streams_that_a_good_bye_leaves_to_others_are_not_spoken_of() -> None:
    server = Server()
    server.connection.leave()
    assert [kind for kind, *_ in server.say(headers(IDLE, ASK), data(IDLE, b"x"), headers(IDLE, DONE, True))] == [
        Kind.GOAWAY
    ]
