"""The audit log as a chain: the hash of an entry covers the one before it, so none can be changed, moved or taken out.

Pure: computes and checks hashes. Where entries are kept is the store's part. The chain shows that the log was changed,
not by whom; who can write to the database can also compute a new chain, which shows against a hash that was noted
elsewhere: `Verification.head` is for noting.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from controller.errors import Invalid
from controller.model import Act, AuditEntry

FIRST: Final = hashlib.sha256(b"sbc-edge audit log 1").digest()
"""Stands before the first entry."""

DETAIL_MAX: Final = 16 << 10
"""Bytes of JSON; a detail says what was done, it does not hold the thing itself."""

WORD_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Verification:
    """`broken_at` is the first sequence that does not fit, 0 where all do; `head` the hash of the last that does."""

    intact: bool
    entries: int
    broken_at: int
    head: bytes


def link(previous: AuditEntry | None, act: Act, when: float) -> AuditEntry:
    """The entry for this act, after the `previous` one (None: the first). Raises Invalid: the detail is too long."""
    detail = write_detail(act.detail)
    sequence = previous.sequence + 1 if previous else 1
    at, actor, action = round(when * 1_000_000), _plain(act.actor), _plain(act.action)
    before = previous.hash if previous else FIRST
    return AuditEntry(sequence, at, actor, action, detail, hash_of(before, sequence, at, (actor, action, detail)))


def write_detail(detail: Mapping[str, Any]) -> str:
    """As JSON, ASCII, in one spelling. Raises Invalid."""
    text = json.dumps(detail, separators=(",", ":"), sort_keys=True)
    if len(text) > DETAIL_MAX:
        raise Invalid("audit.detail", f"is longer than {DETAIL_MAX} bytes")
    return text


def _plain(word: str) -> str:
    """What every database gives back as it got it, and no terminal takes for an order."""
    return "".join(c if c.isprintable() else "?" for c in word[:WORD_MAX])


def hash_of(before: bytes, sequence: int, at: int, words: tuple[str, str, str]) -> bytes:
    """SHA-256 over the hash before, and every field with its length, so that none can lend bytes to its neighbour."""
    sha256 = hashlib.sha256(before)
    sha256.update(sequence.to_bytes(8) + at.to_bytes(8, signed=True))
    for word in words:
        encoded = word.encode("utf-8", "surrogatepass")
        sha256.update(len(encoded).to_bytes(4) + encoded)
    return sha256.digest()


class Walk:
    """Checks a chain piece by piece, so that it need not fit into memory."""

    def __init__(self) -> None:
        self._before = FIRST
        self._sequence = 0
        self._broken_at = 0

    @property
    def position(self) -> int:
        """The sequence of the last entry that was seen to fit."""
        return self._sequence

    @property
    def broken(self) -> bool:
        return self._broken_at > 0

    def take(self, entries: Iterable[AuditEntry]) -> None:
        """The next ones, in order."""
        for entry in entries:
            words = (entry.actor, entry.action, entry.detail)
            wanted = hash_of(self._before, self._sequence + 1, entry.at, words)
            if entry.sequence != self._sequence + 1 or entry.hash != wanted:
                self._broken_at = self._sequence + 1
                return
            self._sequence, self._before = entry.sequence, entry.hash

    def end(self, sequence: int, head: bytes) -> Verification:
        """What came of it, when the log says that it ends with this entry."""
        if not self.broken and (self._sequence, self._before) != (sequence, head):
            self._broken_at = self._sequence + 1
        return Verification(not self.broken, self._sequence, self._broken_at, self._before)
