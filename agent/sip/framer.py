"""Cuts a byte stream (TCP, TLS) into SIP messages (RFC 3261 18.3). Sans-IO: bytes in, messages out, no
socket.

Knows the start line, the empty line and Content-Length; nothing else of a message. What comes out depends on
the bytes only, never on how they were cut into chunks, and the time is linear in them: no byte is searched
twice.

Two ways to meet bytes that are not SIP. In path (`resync=False`) there is no recovery: where the end of one
message is unknown, so is the start of the next (RFC 4475 3.1.2.3, 3.3.9); `error` says why, and the
connection must be closed. Out of path (`resync=True`, a capture with holes in it) bytes are dropped, and
counted, up to the next line that looks like a start line.
"""

import re
from enum import Enum, auto
from typing import Final

from agent.model import ParseError
from agent.sip.grammar import REQUEST_LINE, STATUS_LINE
from agent.sip.headers import MAX_LENGTH, WHITE_SPACE, read_number
from agent.sip.scan import MAX_MESSAGE, refused_start_line

# No sender of SIP needs more than a datagram could carry; what one peer can make us hold is the sum of both.
MAX_HEADERS: Final = MAX_MESSAGE
MAX_BODY: Final = MAX_MESSAGE

_LINE_BREAKS: Final = re.compile(rb"[\r\n]*+")
_EMPTY_LINE: Final = re.compile(rb"\n\r?\n")
_OVERLAP: Final = 2  # an empty line may begin this many bytes before the end of what has been searched

# All Content-Length rows of a header section, folds included; a row is found by the line feed before it.
_LENGTHS: Final = re.compile(rb"\n(?:content-length|l)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*)", re.IGNORECASE)

# A start line that follows, on its line, the tail of a body without line end. Only methods that are known:
# any token would also be found in prose. (RFC 3261, 3262, 6665, 3903, 6086, 3515, 3428, 3311)
_EMBEDDED_START: Final = re.compile(
    rb"(?:ACK|BYE|CANCEL|INFO|INVITE|MESSAGE|NOTIFY|OPTIONS|PRACK|PUBLISH|REFER|REGISTER|SUBSCRIBE|UPDATE)"
    rb" [^\s<]\S*+ SIP/2\.0\r?\n|SIP/2\.0 [1-6][0-9]{2}(?: [^\r\n]*+)?\r?\n"
)


class _State(Enum):
    START = auto()  # before a start line
    HEADERS = auto()  # behind a good start line, before the empty line
    BODY = auto()  # behind the empty line
    DISCARD = auto()  # inside a body that is too long to keep
    CLOSED = auto()


class Framer:
    """One direction of one connection. `feed` it what arrives; it never blocks and never looks at a clock.

    `error` is set once, when a stream in path cannot be followed any further. `pings` counts double CRLFs
    between messages, each of which RFC 5626 4.4.1 wants answered with one CRLF. `dropped` counts bytes that
    became part of no message: the line breaks between messages are not among them.
    """

    def __init__(self, *, resync: bool = False, max_headers: int = MAX_HEADERS, max_body: int = MAX_BODY) -> None:
        self.error: ParseError | None = None
        self.pings = 0
        self.dropped = 0
        self._resync = resync
        self._max_headers = max_headers
        self._max_body = max_body
        self._buffer = bytearray()
        self._begin = 0  # where the message (or line) that is being read starts in the buffer
        self._searched = 0  # nothing of interest ends before this index of the buffer
        self._length = 0  # bytes of the message once its headers are known; in DISCARD, what is left of it
        self._passed = 0  # bytes of the stream that have left the buffer
        self._half_ping = 0  # 1 after an odd number of line breaks between messages
        self._lost = False  # between an error (or gap) and the next start line
        self._in_long_line = False  # inside a line that was too long to be a start line
        self._state = _State.START

    @property
    def pending(self) -> int:
        """Bytes of a message that has not come to its end."""
        return len(self._buffer)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes of the stream; return every message that they complete, as sent.

        In path, messages before an error are returned and `error` is set; feeding on raises that ParseError,
        whose offset counts from the start of the stream. Out of path a message without Content-Length is
        taken to have no body.
        """
        if self.error:
            raise self.error
        if self._state is _State.CLOSED:
            raise ValueError("nothing comes after the end of a stream")
        self._buffer += chunk
        messages: list[bytes] = []
        while self._step(messages):
            pass
        self._compact()
        return messages

    def gap(self) -> None:
        """Bytes of the stream were lost here: give up what was being read and look for a start line.

        Raises ValueError in path, where no byte can be lost.
        """
        if not self._resync:
            raise ValueError("a stream in path has no gaps")
        self._lose(len(self._buffer) - self._begin)
        self._in_long_line = False
        self._compact()

    def close(self) -> int:
        """The stream has ended. Returns (and counts as dropped) the bytes of the message that it cut off."""
        left = len(self._buffer) - self._begin
        self._drop(left)
        self._compact()
        self._state = _State.CLOSED
        return left

    def _step(self, messages: list[bytes]) -> bool:
        """Do the next thing that the buffer allows. False: more bytes are needed."""
        match self._state:
            case _State.START:
                return self._read_start_line()
            case _State.HEADERS:
                return self._read_headers()
            case _State.BODY:
                return self._read_body(messages)
            case _State.DISCARD:
                return self._discard_body()
            case _State.CLOSED:
                return False

    def _read_start_line(self) -> bool:
        if not self._in_long_line:
            self._skip_line_breaks()
        end = self._buffer.find(b"\n", max(self._searched, self._begin))
        if end < 0:
            self._searched = len(self._buffer)
            return self._limit_line()
        line_end = end + 1
        start = self._find_start(line_end)
        if start is None:
            return self._refuse_line(line_end)
        self._drop(start - self._begin)
        self._searched = end
        self._half_ping = 0
        self._lost = False
        self._state = _State.HEADERS
        return True

    def _skip_line_breaks(self) -> None:
        """Skip line breaks before a start line (RFC 3261 7.5); RFC 5626 keeps connections alive with them."""
        match = _LINE_BREAKS.match(self._buffer, self._begin)
        end = match.end() if match else self._begin
        if end == self._begin:
            return
        if self._lost:
            self.dropped += end - self._begin
        else:
            breaks = self._half_ping + self._buffer.count(b"\n", self._begin, end)
            pings, self._half_ping = divmod(breaks, 2)
            self.pings += pings
        self._advance(end - self._begin)

    def _limit_line(self) -> bool:
        """A line without end must not fill the memory."""
        size = len(self._buffer) - self._begin
        if size <= self._max_headers and not self._in_long_line:
            return False
        if not self._resync:
            return self._fail("start-line", f"longer than {self._max_headers} bytes")
        self._in_long_line = True
        self._lose(size)
        return False

    def _find_start(self, line_end: int) -> int | None:
        """Where on the line that ends at `line_end` a start line begins."""
        begin = self._begin
        if self._in_long_line or line_end - begin > self._max_headers:
            return None
        line = bytes(self._buffer[begin:line_end])
        # While lost, the line may begin with the tail of anything: "m=audioINVITE sip:..." is no method.
        if self._lost and (found := _EMBEDDED_START.search(line)):
            return begin + found.start()
        text = line[:-1].removesuffix(b"\r")
        if REQUEST_LINE.fullmatch(text) or STATUS_LINE.fullmatch(text):
            return begin
        found = _EMBEDDED_START.search(line) if self._resync else None
        return begin + found.start() if found else None

    def _refuse_line(self, line_end: int) -> bool:
        if not self._resync:
            if line_end - self._begin > self._max_headers:
                return self._fail("start-line", f"longer than {self._max_headers} bytes")
            refusal = refused_start_line(bytes(self._buffer[self._begin : line_end]), 0)
            return self._fail(refusal.place, refusal.reason, refusal.offset)
        self._in_long_line = False
        self._lose(line_end - self._begin)
        return True

    def _read_headers(self) -> bool:
        begin = self._begin
        empty = _EMPTY_LINE.search(self._buffer, max(self._searched - _OVERLAP, begin))
        size = (empty.end() if empty else len(self._buffer)) - begin
        if size > self._max_headers:
            # A fixed number of bytes goes, however many have come: the result must not depend on the cutting.
            if self._resync:
                self._lose(self._max_headers)
                return True
            return self._fail("headers", f"no empty line within {self._max_headers} bytes")
        if not empty:
            self._searched = len(self._buffer)
            return False
        body = self._body_size(begin, empty.end())
        if body is None:
            return self._resync
        self._length = size + body
        self._state = _State.BODY
        if body > self._max_body:
            if not self._resync:
                return self._fail("body", f"longer than {self._max_body} bytes")
            self._state = _State.DISCARD
        return True

    def _body_size(self, begin: int, end: int) -> int | None:
        """What Content-Length says. None: nothing that can be followed, and the error has been dealt with."""
        values = {
            read_number(match[1].strip(WHITE_SPACE), MAX_LENGTH)
            for match in _LENGTHS.finditer(self._buffer, begin, end)
        }
        if not values and self._resync:
            return 0  # a message that ends with its headers is likelier than one whose body runs on for ever
        if len(values) == 1:
            (size,) = values
            if size >= 0:
                return size
            reason = "is not a number"
        else:
            reason = "is contradicted by another one" if values else "is missing, and a stream needs it"
        if self._resync:
            self._lose(end - begin)
        else:
            self._fail("Content-Length", reason)
        return None

    def _read_body(self, messages: list[bytes]) -> bool:
        if len(self._buffer) - self._begin < self._length:
            return False
        messages.append(bytes(self._buffer[self._begin : self._begin + self._length]))
        self._advance(self._length)
        self._state = _State.START
        return True

    def _discard_body(self) -> bool:
        size = min(len(self._buffer) - self._begin, self._length)
        self._drop(size)
        self._length -= size
        if self._length:
            return False
        self._state = _State.START
        return True

    def _lose(self, size: int) -> None:
        """Give up `size` bytes and look for a start line behind them."""
        self._drop(size)
        self._lost = True
        self._half_ping = 0
        self._state = _State.START

    def _drop(self, size: int) -> None:
        self.dropped += size
        self._advance(size)

    def _advance(self, size: int) -> None:
        self._begin += size
        self._searched = self._begin

    def _fail(self, place: str, reason: str, offset: int = 0) -> bool:
        self.error = ParseError(place, reason, self._passed + self._begin + offset)
        self._advance(len(self._buffer) - self._begin)
        self._state = _State.CLOSED
        return False

    def _compact(self) -> None:
        """Forget what has been read, once per chunk, so that the cost stays linear in the bytes."""
        if self._begin:
            del self._buffer[: self._begin]
            self._passed += self._begin
            self._searched -= self._begin
            self._begin = 0
