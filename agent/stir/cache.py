"""What is known of each certificate URL, in memory: bounded by count and by bytes, the least recently used goes first.

Good certificates and everything else lie on two shelves: however many URLs strangers invent, they push out each
other's failures and never a certificate that calls are verified by. Knows no network and no clock; times are monotonic
seconds.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent.identity.model import Credential, Unreachable

FAILURES_MAX: Final = 4096
"""URLs without a good certificate that are remembered; one more is fetched again when it comes again. Some 4 MB."""


@dataclass(slots=True)
class Entry:
    """What a URL led to. `body` is the chain as fetched, b"" where there is none: read, it would take seven times the
    memory, and it is needed again only when trust changes.

    `answer` is given without asking anybody until `until`; from `renew_at` on whoever asks sets off a fetch beside.
    A certificate that is no longer fresh stays in use until `usable_until` while its server fails; `failures` in a row
    so far.
    """

    host: str
    answer: Credential | Unreachable
    body: bytes
    renew_at: float
    until: float
    usable_until: float
    failures: int = 0

    @property
    def good(self) -> bool:
        """Whether a call can be verified by it."""
        return isinstance(self.answer, Credential) and not self.answer.fault


class Cache:
    """URL to entry. `evictions` counts what had to go for want of room."""

    def __init__(self, count_max: int, bytes_max: int, failures_max: int = FAILURES_MAX) -> None:
        self.evictions = 0
        self._good = _Shelf(count_max, bytes_max)
        self._other = _Shelf(failures_max, bytes_max // 4)
        self._hosts: Counter[str] = Counter()

    def get(self, url: str) -> Entry | None:
        """What is known, and that it was asked for."""
        return self._good.get(url) or self._other.get(url)

    def put(self, url: str, entry: Entry) -> None:
        """Remember; what was known of that URL is forgotten."""
        self.discard(url)
        shelf = self._good if entry.good else self._other
        if shelf is self._good:
            self._hosts[entry.host] += 1
        shelf.entries[url] = entry
        shelf.bytes += len(entry.body)
        while shelf.is_over:
            self.discard(next(iter(shelf.entries)))
            self.evictions += 1

    def discard(self, url: str) -> None:
        """Forget what is known of that URL."""
        if (entry := self._good.pop(url)) is not None:
            self._hosts[entry.host] -= 1
            if not self._hosts[entry.host]:
                del self._hosts[entry.host]
        self._other.pop(url)

    def knows_host(self, host: str) -> bool:
        """Whether a good certificate came from there."""
        return host in self._hosts

    def items(self) -> Iterator[tuple[str, Entry]]:
        """Everything, in no order that means anything. Must not be changed meanwhile."""
        yield from self._good.entries.items()
        yield from self._other.entries.items()

    @property
    def good(self) -> int:
        """Number of good certificates."""
        return len(self._good.entries)

    @property
    def others(self) -> int:
        """Number of URLs that led to none."""
        return len(self._other.entries)

    @property
    def bytes(self) -> int:
        """Of all certificates, as fetched."""
        return self._good.bytes + self._other.bytes


class _Shelf:
    def __init__(self, count_max: int, bytes_max: int) -> None:
        self.entries: OrderedDict[str, Entry] = OrderedDict()
        self.bytes = 0
        self._count_max = count_max
        self._bytes_max = bytes_max

    @property
    def is_over(self) -> bool:
        return len(self.entries) > self._count_max or self.bytes > self._bytes_max

    def get(self, url: str) -> Entry | None:
        entry = self.entries.get(url)
        if entry is not None:
            self.entries.move_to_end(url)
        return entry

    def pop(self, url: str) -> Entry | None:
        entry = self.entries.pop(url, None)
        if entry is not None:
            self.bytes -= len(entry.body)
        return entry
