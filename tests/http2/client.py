"""A client made of frames, and what a server's connection made of them: no sockets, no time but what is told."""

from collections import Counter
from collections.abc import Iterable

from hpack import Decoder

from agent.http2 import frames
from agent.http2.connection import Connection
from agent.http2.errors import Code
from agent.http2.frames import END_HEADERS, END_STREAM, Frame, FrameReader, Kind
from agent.http2.headers import HeaderList, block
from agent.http2.limits import Limits
from agent.http2.streams import Stream

ASK = block([(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/x"), (b"te", b"trailers")])
HEAD = block([(b":status", b"200")])
DONE = block([(b"grpc-status", b"0")])


class Heard:
    """A receiver that keeps what it hears."""

    def __init__(self, stream: Stream, headers: HeaderList) -> None:
        self.stream = stream
        self.headers = headers
        self.body = b""
        self.ended = False
        self.was_reset: Code | None = None
        self.rooms = 0

    def data(self, payload: bytes, ended: bool) -> None:
        assert not self.ended
        self.body += payload
        self.ended = ended

    def reset(self, code: Code) -> None:
        assert self.was_reset is None, "a stream ends once"
        self.was_reset = code

    def room(self) -> None:
        self.rooms += 1


class Served:
    """A connection with its client's end."""

    def __init__(self, limits: Limits | None = None, greet: bool = True) -> None:
        self.heard: dict[int, Heard] = {}
        self.counts: Counter[str] = Counter()
        self.now = 0.0
        self.connection: Connection[HeaderList] = Connection(
            limits or Limits(), list, self._accept, lambda _read: None, self.counts
        )
        self._reader = FrameReader(1 << 24)
        self.decoder = Decoder()
        if greet:
            assert [kind for kind, *_ in self.say(frames.PREFACE + frames.settings({}))] == [
                Kind.SETTINGS, Kind.WINDOW_UPDATE, Kind.SETTINGS,
            ]  # fmt: skip

    def _accept(self, stream: Stream, headers: HeaderList) -> Heard:
        heard = self.heard[stream.number] = Heard(stream, headers)
        return heard

    def say(self, *data: bytes) -> list[Frame]:
        """What the server answers to these bytes, when it has done all there is to do."""
        self.connection.receive(b"".join(data))
        answer = b""
        while True:
            more = self.connection.work(self.now)
            answer += self.connection.take()
            if not more:
                return self._reader.read(answer)[0]

    def ask(self, number: int = 1, body: bytes | None = None) -> Heard:
        """A request; without a body it stays open."""
        said = headers(number) if body is None else headers(number) + data(number, body, ended=True)
        self.say(said)
        return self.heard[number]


def headers(number: int, headers: bytes = ASK, ended: bool = False) -> bytes:
    return frames.frame(Kind.HEADERS, END_HEADERS | (END_STREAM if ended else 0), number, headers)


def data(number: int, payload: bytes, ended: bool = False) -> bytes:
    return frames.frame(Kind.DATA, END_STREAM if ended else 0, number, payload)


def goaway_of(answer: Iterable[Frame]) -> tuple[Code, str]:
    """Why the connection was ended."""
    (payload,) = [payload for kind, _, _, payload in answer if kind == Kind.GOAWAY]
    return Code(int.from_bytes(payload[4:8], "big")), payload[8:].decode()


def resets_of(answer: Iterable[Frame]) -> list[tuple[int, Code]]:
    """Streams that were reset, and why."""
    return [(n, Code(frames.word_of(payload))) for kind, _, n, payload in answer if kind == Kind.RST_STREAM]
