"""Puts the bytes of TCP connections in order again, each direction by itself, within fixed bounds.

Knows sequence numbers and the capture's clock (an argument); must not know what the bytes mean: a `Sink` per
direction takes them. A capture is not an endpoint: it may begin in the middle, lose what the peers received,
and see bytes twice. Of two copies of a byte the first counts. What never comes is skipped after a bound, and
the sink is told of the gap.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from agent.ingress.layers import Tcp

MAX_DIRECTIONS: Final = 16_384
"""Directions remembered at once. A carrier's SBC has some thousand connections; each costs about 1 kB."""

MAX_HELD: Final = 256 << 10
"""Bytes of one direction that may wait behind a gap: four SIP messages of the greatest size."""

MAX_PIECES: Final = 256
"""Pieces that may wait behind a gap, so that tiny segments cannot make the search for a place slow."""

MAX_HELD_TOTAL: Final = 32 << 20
"""Bytes that may wait in all directions together, behind gaps and for the rest of their message."""

GAP_TIMEOUT: Final = 3.0
"""Seconds that a gap may last: a lost segment is repeated after 1 s (RFC 6298 2.1), then after 2 more."""

IDLE_TIMEOUT: Final = 600.0
"""Seconds without a segment; RFC 5626 4.4.1 keep-alives come every 120 s."""

LINGER: Final = 60.0
"""Seconds that a closed direction is remembered, so that late copies are not taken for a new connection."""

FAR: Final = 1 << 20
"""Bytes between what is expected and what comes: farther away, it is another connection on the same ports."""

_FIN, _SYN, _RST = 0x01, 0x02, 0x04

T = TypeVar("T")


class Sink(Protocol[T]):
    """Takes the bytes of one direction, in order."""

    @property
    def refused(self) -> bool:
        """Whether it wants no more bytes."""
        ...

    @property
    def pending(self) -> int:
        """Bytes that it keeps until more come."""
        ...

    def feed(self, data: bytes) -> list[T]:
        """What these bytes completed."""
        ...

    def gap(self) -> None:
        """Bytes are missing between what came and what comes next."""
        ...

    def finish(self) -> None:
        """No more bytes will come."""
        ...


@dataclass(slots=True)
class StreamCounts:
    """What happened to TCP segments so far."""

    segments: int = 0
    retransmitted: int = 0  # segments of which every byte was known
    out_of_order: int = 0
    gaps: int = 0  # places where bytes were given up
    evicted: int = 0  # directions forgotten at the bound, with whatever they held


class _Direction(Generic[T]):
    """One direction of a connection. Positions are sequence numbers that do not wrap."""

    __slots__ = (
        "closed",
        "end",
        "expected",
        "held",
        "initial",
        "pending",
        "pieces",
        "seen",
        "sink",
        "starts",
        "waiting_since",
    )

    def __init__(self, sink: Sink[T], expected: int, now: float) -> None:
        self.sink: Sink[T] | None = sink  # None: closed or not wanted
        self.initial = self.expected = expected
        self.starts: list[int] = []  # of `pieces`, sorted, none overlapping
        self.pieces: list[bytes] = []
        self.held = 0
        self.pending = 0  # what the sink keeps
        self.waiting_since = now
        self.seen = now
        self.end = -1  # position behind the last byte, once a FIN said so
        self.closed = False

    def position(self, sequence: int) -> int:
        """The position that a 32-bit sequence number stands for: the one nearest to what is expected."""
        return self.expected + ((sequence - self.expected + 0x80000000) & 0xFFFFFFFF) - 0x80000000

    def hold(self, start: int, payload: bytes) -> int:
        """Keep what came too early; of known bytes the first copy counts. Returns bytes added."""
        before = self.held
        end = start + len(payload)
        at = bisect_right(self.starts, start)
        if at:
            start = max(start, self.starts[at - 1] + len(self.pieces[at - 1]))
        position = end - len(payload)
        while start < end:
            stop = min(end, self.starts[at]) if at < len(self.starts) else end
            if start < stop:
                self.starts.insert(at, start)
                self.pieces.insert(at, payload[start - position : stop - position])
                self.held += stop - start
                at += 1
            if stop == end:
                break
            start = max(start, self.starts[at] + len(self.pieces[at]))
            at += 1
        return self.held - before

    def take_ready(self) -> bytes:
        """What is held at the expected position, or b""."""
        if not self.starts or self.starts[0] != self.expected:
            return b""
        del self.starts[0]
        piece = self.pieces.pop(0)
        self.held -= len(piece)
        return piece

    def drop_known(self) -> int:
        """Cut what is held below the expected position: it came in order meanwhile. Returns bytes dropped."""
        before = self.held
        while self.starts and self.starts[0] < self.expected:
            known = min(self.expected - self.starts[0], len(self.pieces[0]))
            self.held -= known
            self.starts[0] += known
            self.pieces[0] = self.pieces[0][known:]
            if not self.pieces[0]:
                del self.starts[0], self.pieces[0]
        return before - self.held

    def forget(self) -> int:
        """Drop all that is held. Returns bytes dropped."""
        dropped = self.held
        self.starts, self.pieces, self.held = [], [], 0
        return dropped


_Key = tuple[bytes, bytes, int, int]


class Streams(Generic[T]):
    """All directions. `accept` makes the sink of a new one: its first segment, and whether that is a SYN."""

    def __init__(self, accept: Callable[[Tcp, bool], Sink[T]]) -> None:
        self.counts = StreamCounts()
        self._accept = accept
        self._directions: OrderedDict[_Key, _Direction[T]] = OrderedDict()  # least recently seen first
        self._held = 0

    def __len__(self) -> int:
        return len(self._directions)

    def add(self, segment: Tcp, now: float) -> list[T]:
        """What this segment completed. `now` is monotonic seconds of the capture's clock."""
        self.counts.segments += 1
        completed = self._expire(now)
        key = segment[:4]
        direction = self._directions.get(key)
        if direction is None or _starts_anew(direction, segment, now):
            if not (segment.payload or segment.flags & _SYN):
                return completed
            if direction is not None:
                completed += self._close(direction)
            direction = self._open(key, segment, now)
        else:
            self._directions.move_to_end(key)
        direction.seen = now
        if direction.sink is None:
            return completed
        completed += self._segment(direction, segment, now)
        if segment.flags & _RST:
            completed += self._reset(key, direction)
        if self._held > MAX_HELD_TOTAL or len(self._directions) > MAX_DIRECTIONS:
            completed += self._make_room()
        return completed

    def tick(self, now: float) -> list[T]:
        """What waits behind gaps that lasted too long, and what its streams complete. For captures of an interface: the
        next segment, which would show it, may be long in coming."""
        completed: list[T] = []
        for direction in list(self._directions.values()):
            if direction.starts and _waited_enough(direction, now):
                completed += self._skip_gap(direction, now)
                completed += self._close_at_end(direction)
        return completed

    def finish(self) -> list[T]:
        """What can be had of everything that is still held, at the end of the capture."""
        completed: list[T] = []
        while self._directions:
            _, direction = self._directions.popitem(last=False)
            completed += self._close(direction)
        return completed

    def _open(self, key: _Key, segment: Tcp, now: float) -> _Direction[T]:
        syn = bool(segment.flags & _SYN)
        direction = _Direction(self._accept(segment, syn), segment.sequence + syn, now)
        self._directions[key] = direction
        self._directions.move_to_end(key)
        return direction

    def _segment(self, direction: _Direction[T], segment: Tcp, now: float) -> list[T]:
        syn = 1 if segment.flags & _SYN else 0  # it takes a sequence number itself
        start = direction.position(segment.sequence + syn)
        completed: list[T] = []
        if abs(start - direction.expected) > FAR:
            completed += self._skip_gaps(direction)
            self._skip_to(direction, start)
        if segment.flags & _FIN:
            direction.end = start + len(segment.payload)
        if segment.payload:
            completed += self._payload(direction, start, segment.payload, now)
        if direction.starts and _waited_enough(direction, now):
            completed += self._skip_gap(direction, now)
        return completed + self._close_at_end(direction)

    def _skip_gap(self, direction: _Direction[T], now: float) -> list[T]:
        """Give up the bytes that are missing next."""
        self._skip_to(direction, direction.starts[0])
        direction.waiting_since = now
        return self._drain(direction)

    def _close_at_end(self, direction: _Direction[T]) -> list[T]:
        return self._close(direction) if 0 <= direction.end <= direction.expected else []

    def _payload(self, direction: _Direction[T], start: int, payload: bytes, now: float) -> list[T]:
        known = direction.expected - start
        if known >= len(payload):
            self.counts.retransmitted += 1
            return []
        if known < 0:
            self.counts.out_of_order += 1
            if not direction.starts:
                direction.waiting_since = now
            self._held += direction.hold(start, payload)
            return []
        completed = self._deliver(direction, payload[known:] if known else payload)
        if direction.starts:
            self._held -= direction.drop_known()
            completed += self._drain(direction)
            direction.waiting_since = now
        return completed

    def _deliver(self, direction: _Direction[T], data: bytes) -> list[T]:
        direction.expected += len(data)
        if direction.sink is None:
            return []
        completed = direction.sink.feed(data)
        self._account(direction, direction.sink.pending)
        if direction.sink.refused:
            direction.sink = None
            self._account(direction, 0)
            self._held -= direction.forget()
        return completed

    def _account(self, direction: _Direction[T], pending: int) -> None:
        self._held += pending - direction.pending
        direction.pending = pending

    def _drain(self, direction: _Direction[T]) -> list[T]:
        completed: list[T] = []
        while piece := direction.take_ready():
            self._held -= len(piece)
            completed += self._deliver(direction, piece)
        return completed

    def _skip_to(self, direction: _Direction[T], position: int) -> None:
        self.counts.gaps += 1
        direction.expected = position
        if direction.sink is not None:
            direction.sink.gap()
            self._account(direction, direction.sink.pending)

    def _skip_gaps(self, direction: _Direction[T]) -> list[T]:
        """Hand out everything held, gaps or not."""
        completed: list[T] = []
        while direction.starts:
            self._skip_to(direction, direction.starts[0])
            completed += self._drain(direction)
        return completed

    def _close(self, direction: _Direction[T]) -> list[T]:
        completed = self._skip_gaps(direction)
        if direction.sink is not None:
            direction.sink.finish()
        self._account(direction, 0)
        direction.sink, direction.closed = None, True
        return completed

    def _reset(self, key: _Key, direction: _Direction[T]) -> list[T]:
        """RST ends both directions (RFC 9293 3.5.2)."""
        completed = self._close(direction)
        source, destination, source_port, destination_port = key
        other = self._directions.get((destination, source, destination_port, source_port))
        if other is not None:
            completed += self._close(other)
        return completed

    def _expire(self, now: float) -> list[T]:
        completed: list[T] = []
        while self._directions:
            oldest = next(iter(self._directions.values()))
            if now - oldest.seen <= IDLE_TIMEOUT:
                break
            completed += self._remove_oldest()
        return completed

    def _make_room(self) -> list[T]:
        completed: list[T] = []
        while self._directions and (self._held > MAX_HELD_TOTAL or len(self._directions) > MAX_DIRECTIONS):
            self.counts.evicted += 1
            completed += self._remove_oldest()
        return completed

    def _remove_oldest(self) -> list[T]:
        _, direction = self._directions.popitem(last=False)
        return self._close(direction)


def _starts_anew(direction: _Direction[T], segment: Tcp, now: float) -> bool:
    """Whether this segment belongs to a new connection on the ports of an old one."""
    if segment.flags & _SYN:  # a repeated SYN names the sequence number that is known already
        return (segment.sequence + 1 - direction.initial) & 0xFFFFFFFF != 0
    return direction.closed and now - direction.seen > LINGER


def _waited_enough(direction: _Direction[T], now: float) -> bool:
    return (
        now - direction.waiting_since > GAP_TIMEOUT or direction.held > MAX_HELD or len(direction.pieces) > MAX_PIECES
    )
