"""Puts IPv4 and IPv6 fragments together again, in any order, within fixed bounds.

Knows fragments and the capture's clock (an argument); must not know what the datagrams carry. An overlap
drops the whole datagram, later fragments included (RFC 5722 3): no sender makes one, an attacker does.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

from agent.ingress.layers import Fragment

TIMEOUT: Final = 30.0
"""Seconds that a datagram waits for its last fragment; the Linux default (net.ipv4.ipfrag_time)."""

MAX_DATAGRAMS: Final = 4096
"""Unfinished datagrams at once: 30 s of 130 lost fragments a second."""

MAX_BYTES: Final = 16 << 20
"""Bytes held in unfinished datagrams; four times what Linux allows (net.ipv4.ipfrag_high_thresh)."""

MAX_PIECES: Final = 128
"""Fragments of one datagram: 64 KiB at the smallest MTU that IPv4 hosts must take whole (576) are 119."""

MAX_DATAGRAM: Final = 65_535

_Key = tuple[bytes, bytes, int, int]


@dataclass(slots=True)
class FragmentCounts:
    """What became of fragments and datagrams so far. Every datagram ends in exactly one of the last four."""

    fragments: int = 0
    duplicates: int = 0
    reassembled: int = 0
    refused: int = 0  # overlapping or impossible
    expired: int = 0
    evicted: int = 0  # pushed out by newer ones at a bound


class _Datagram:
    """One unfinished datagram; `offsets` is sorted, `pieces` runs beside it."""

    __slots__ = ("offsets", "pieces", "protocol", "refused", "size", "started", "total")

    def __init__(self, started: float) -> None:
        self.started = started
        self.offsets: list[int] = []
        self.pieces: list[bytes] = []
        self.size = 0
        self.total = -1  # unknown until the last fragment came
        self.protocol = -1
        self.refused = False

    def refuse(self) -> None:
        """Give up on it but remember it, so that its other fragments are not taken for a new datagram."""
        self.refused = True
        self.offsets, self.pieces, self.size = [], [], 0

    def insert(self, fragment: Fragment) -> bool | None:
        """True: taken; None: an exact duplicate; False: it contradicts what is here."""
        begin, payload = fragment.offset, fragment.payload
        end = begin + len(payload)
        at = bisect_left(self.offsets, begin)
        if at < len(self.offsets) and self.offsets[at] == begin and self.pieces[at] == payload:
            return None
        if at and self.offsets[at - 1] + len(self.pieces[at - 1]) > begin:
            return False
        if at < len(self.offsets) and self.offsets[at] < end:
            return False
        last = self.offsets[-1] + len(self.pieces[-1]) if self.offsets else 0
        if not fragment.more:
            if self.total >= 0 or last > end:
                return False
            self.total = end
        elif 0 <= self.total < end:
            return False
        if not begin:
            self.protocol = fragment.protocol
        self.offsets.insert(at, begin)
        self.pieces.insert(at, payload)
        self.size += len(payload)
        return True


class Fragments:
    """Unfinished datagrams. Time only moves forward: `now` is monotonic seconds of the capture's clock."""

    def __init__(self) -> None:
        self.counts = FragmentCounts()
        self._pending: dict[_Key, _Datagram] = {}  # by age, the order in which they expire
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, fragment: Fragment, now: float) -> tuple[int, bytes] | None:
        """The first header's protocol number and the payload, when this fragment completes the datagram."""
        self.counts.fragments += 1
        self._expire(now)
        # IPv6 takes the protocol of the first fragment only (RFC 8200 4.5), so it cannot be part of the key.
        kind = fragment.protocol if len(fragment.source) == 4 else -1
        key = (fragment.source, fragment.destination, fragment.identification, kind)
        datagram = self._pending.get(key)
        if datagram is None:
            datagram = self._pending[key] = _Datagram(now)
        if datagram.refused:
            return None
        before = datagram.size
        possible = _possible(fragment) and len(datagram.pieces) < MAX_PIECES
        taken = possible and datagram.insert(fragment)
        if taken is None:
            self.counts.duplicates += 1
            return None
        if not taken:
            self.counts.refused += 1
            datagram.refuse()
        self._bytes += datagram.size - before
        if datagram.size == datagram.total:
            return self._complete(key, datagram)
        self._make_room()
        return None

    def _complete(self, key: _Key, datagram: _Datagram) -> tuple[int, bytes]:
        del self._pending[key]
        self._bytes -= datagram.size
        self.counts.reassembled += 1
        return datagram.protocol, b"".join(datagram.pieces)

    def _expire(self, now: float) -> None:
        while self._pending:
            key, oldest = next(iter(self._pending.items()))
            if now - oldest.started <= TIMEOUT:
                return
            self.counts.expired += not oldest.refused
            self._remove(key, oldest)

    def _make_room(self) -> None:
        while len(self._pending) > MAX_DATAGRAMS or self._bytes > MAX_BYTES:
            key, oldest = next(iter(self._pending.items()))
            self.counts.evicted += not oldest.refused
            self._remove(key, oldest)

    def _remove(self, key: _Key, datagram: _Datagram) -> None:
        del self._pending[key]
        self._bytes -= datagram.size


def _possible(fragment: Fragment) -> bool:
    """Whether a sender may make this fragment: 8-byte units but for the last, within 64 KiB, not empty."""
    size = len(fragment.payload)
    return 0 < size <= MAX_DATAGRAM - fragment.offset and not (fragment.more and size % 8)
