"""What is on its way: how much may be, what came back, and how a batch becomes messages. Sans I/O.

Knows no stream. Sequence numbers go up one by one: each is in a piece, and each piece is answered for.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent.control.errors import ControllerError, Trouble
from agent.records.batches import Framed, Gap
from agent.records.manifest import DAMAGED
from agent.records.segment import encode_batches

PIECE_MAX: Final = (1 << 20) - 4096
"""Bytes of one batch on the wire; the controller takes messages of 1 MiB."""

TOO_LARGE: Final = "too large to send"


@dataclass(frozen=True, slots=True)
class Piece:
    """One message with a batch."""

    first: int
    count: int
    data: bytes

    @property
    def last(self) -> int:
        return self.first + self.count - 1


class Flow:
    """Of one stream, which begins behind `committed`. `now` is monotonic seconds."""

    def __init__(self, committed: int, window: int) -> None:
        self.committed = committed
        self.bytes = 0
        self._window = window
        self._sent = committed
        self._flying: deque[tuple[int, int]] = deque()
        self._since = 0.0

    def may_send(self, size: int) -> bool:
        """One message may always be on its way."""
        return not self._flying or self.bytes + size <= self._window

    def sent(self, item: Piece | Gap, now: float) -> None:
        """It is on its way."""
        size = len(item.data) if isinstance(item, Piece) else 0
        if not self._flying:
            self._since = now
        self._sent = item.last
        self._flying.append((item.last, size))
        self.bytes += size

    def answered(self, committed: int, window: int, now: float) -> None:
        """The other side has so much. Raises ControllerError for what it cannot have."""
        if not self.committed <= committed <= self._sent:
            said = f"{committed} records are said to be there, {self._sent} were sent, {self.committed} were there"
            raise ControllerError(Trouble.REFUSED, said)
        if committed > self.committed:
            self._since = now
        self.committed = committed
        self._window = window
        while self._flying and self._flying[0][0] <= committed:
            self.bytes -= self._flying.popleft()[1]

    def waiting(self, now: float) -> float:
        """For so long something has been on its way without any progress; 0 when nothing is."""
        return now - self._since if self._flying else 0.0


def pieces(framed: Framed, after: int) -> Iterator[Piece | Gap]:
    """A batch as messages, without what is not wanted any more. What cannot be sent is a gap."""
    batch = framed.batch
    if batch.first > after and len(framed.data) <= PIECE_MAX:
        yield Piece(batch.first, batch.count, framed.data)
        return
    try:
        lines = batch.lines()
    except ValueError:
        yield Gap(max(batch.first, after + 1), batch.last, batch.kind.word, DAMAGED)
        return
    skip = max(0, after + 1 - batch.first)
    yield from _split(framed, lines[skip:], batch.first + skip)


def _split(framed: Framed, lines: list[bytes], first: int) -> Iterator[Piece | Gap]:
    batch = framed.batch
    made = list(encode_batches(batch.kind, first, lines, batch.written))
    if all(len(data) <= PIECE_MAX for _, data in made):
        for count, data in made:
            yield Piece(first, count, data)
            first += count
    elif len(lines) == 1:
        yield Gap(first, first, batch.kind.word, TOO_LARGE)
    else:
        half = len(lines) // 2
        yield from _split(framed, lines[:half], first)
        yield from _split(framed, lines[half:], first + half)
