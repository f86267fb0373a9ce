"""By what the legs of one call are recognised, and tables to look them up in. Knows identifiers, and no time."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from agent.calls.legs import Match
from agent.calls.transit import IdentityRow
from agent.model import Scan
from agent.numbers.reading import read_number

MAX_ALIKE: Final = 32
"""Calls with the same two numbers at once; beyond it somebody floods one number."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a call may be recognised by, as hashes: one Call-ID, its tokens, pairs of a calling and a called number."""

    call_id: int
    tokens: tuple[int, ...]
    numbers: tuple[int, ...]

    def strong(self) -> tuple[tuple[Match, int], ...]:
        """Those that belong to one call alone, the surest first."""
        return ((Match.CALL_ID, self.call_id), *((Match.IDENTITY, token) for token in self.tokens))

    def all(self) -> tuple[tuple[Match, int], ...]:
        """All of them, the surest first."""
        return (*self.strong(), *((Match.NUMBERS, pair) for pair in self.numbers))


def keys_of(message: Scan, rows: tuple[IdentityRow, ...], country: str) -> Keys:
    """Of an INVITE. An SBC may show the called number in the Request-URI or leave it in To, and the calling one in
    From or in P-Asserted-Identity; a URI without a number gives none."""
    tokens = tuple(dict.fromkeys(hash(("token", token)) for row in rows for token in row.tokens))
    calling = _digits((message.from_uri, *message.asserted[:2]), country)
    called = _digits((message.request_uri, message.to_uri), country)
    numbers = tuple([hash(("numbers", one, other)) for one in calling for other in called])
    return Keys(hash(("call-id", message.call_id)), tokens, numbers)


def _digits(uris: tuple[bytes, ...], country: str) -> list[str]:
    """The numbers among these URIs, each once."""
    return list(dict.fromkeys(digits for uri in uris if (digits := read_number(uri, country).digits)))


class Aged(Protocol):
    """What is forgotten by its age."""

    since: float


T = TypeVar("T")
A = TypeVar("A", bound=Aged)


class Index(Generic[T]):
    """Several of a kind under one key, the oldest first, MAX_ALIKE at most."""

    def __init__(self) -> None:
        self._items: dict[int, list[T]] = {}

    def get(self, key: int) -> list[T]:
        """A list of those under the key."""
        return list(self._items.get(key, ()))

    def add(self, key: int, item: T) -> bool:
        """Add one; whether the oldest had to go for it."""
        items = self._items.setdefault(key, [])
        items.append(item)
        if len(items) <= MAX_ALIKE:
            return False
        del items[0]
        return True

    def remove(self, key: int, item: T) -> None:
        """Remove it, if it is there."""
        items = self._items.get(key, [])
        if item in items:
            items.remove(item)
        if not items:
            self._items.pop(key, None)


def expired(table: Mapping[int, A], before: float, most: int) -> list[A]:
    """The oldest of a table that are older than that."""
    return [item for item in islice(table.values(), most) if item.since < before]
