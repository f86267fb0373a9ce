"""What is one call attempt: which INVITEs are repeats of one that was counted, and which are new.

Knows the identifiers of RFC 3261 8.2.2.2 and 17.2.3 and how long a peer may repeat itself. Must not know
policy, verdicts or dialogs: the decision that screening leaves on an entry is an opaque object here.

Two things decide. The *attempt*: trunk, Call-ID and From tag, or From URI where a peer of RFC 2543 sends no tag.
The *transaction* within it: topmost Via (branch and sent-by), CSeq number and Request-URI. That is RFC 3261 17.2.3
where the branch has the magic cookie and RFC 2543 matching where it has not, in one formula, since a
retransmission repeats all of them byte by byte. Whether another INVITE of an attempt still shows the same numbers is
for screening to compare: it has read them.

`AttemptTablePy` is the reference; its compiled twin (agent/native/attempts.c) is what the compiled hot path works on
too.

Identifiers are remembered as 64-bit hashes (agent/hashing.py): a third of the memory. What `export` gives lets
the next process know them again.
"""

import struct
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Final

from agent import native
from agent.calls.ticks import Ticks
from agent.hashing import identify_py
from agent.model import Scan

if TYPE_CHECKING:
    from typing_extensions import Buffer

LIFETIME_SECONDS: Final = 40.0
"""Timer B ends the copies of a UDP INVITE after 64*T1 = 32 s (RFC 3261 17.1.1.2); the rest is margin."""

CAPACITY: Final = 1 << 18
"""Attempts remembered: 6,500 new ones a second for 40 s, in 60 MB. At 26,000 a second the last 10 s stay,
which covers five of the seven copies."""

FOLLOW_UPS: Final = 8
"""Retries and forks of one attempt that are not counted: two challenges, each with a stale nonce, and a fork
of each on its way through a proxy. What comes after it is counted and screened as a new attempt."""

COPIES: Final = 16
"""Copies of one request that are not counted: RFC 3261 sends 7, and a network may double them. More is a
caller who reuses a finished transaction for another call."""

SLICES: Final = 8
"""The lifetime is kept in steps of an eighth: what was last seen 40 s ago is forgotten after 40 to 45 s."""

KEPT: Final = struct.Struct("<QQQQIBBBB")
"""A transaction that survives a restart: key of its attempt, its own, numbers, CSeq number, place of its decision in
the list beside it (from 1; 0: none), slices since its attempt was seen, copies, continuations, 1 if it is a further
one of the attempt before it."""

WORD: Final = (1 << 64) - 1

FORGET_AT_ONCE: Final = 2
"""Expired attempts removed per new one. More than one, so that the removal overtakes the arrival."""


class Seen(Enum):
    """What an INVITE without To tag is, beside what came before it."""

    NEW = "new"
    RETRANSMISSION = "retransmission"
    CONTINUATION = "continuation"  # the retry after a challenge: another CSeq, a new transaction
    MERGED = "merged"  # a fork: the same CSeq in another transaction (RFC 3261 8.2.2.2)
    EXCESS = "excess"  # repeats beyond the bounds: to be counted and screened like NEW

    @property
    def counts(self) -> bool:
        """Whether limits count this INVITE as an attempt."""
        return self is Seen.NEW or self is Seen.EXCESS


NEW: Final = Seen.NEW  # looking a member up in its enumeration takes longer than looking a key up in a dict


class AttemptEntry:
    """What is remembered of one transaction; the same object for every copy of its INVITE.

    `seen` is about the latest observation. `decision` belongs to screening, which leaves there what answers a
    copy the same way, and so does `numbers`, the `fingerprint` of the numbers it decided by. A decision is held for
    the entry's life, so keep it small: a verdict, not the message. It is None at NEW and EXCESS; a CONTINUATION or
    MERGED starts with the decision and the numbers of the attempt's first INVITE. `continuations` is how many
    follow-ups the attempt had when this transaction began. The other fields belong to the table.
    """

    __slots__ = ("continuations", "copies", "cseq", "decision", "followers", "numbers", "seen", "transaction", "turn")

    seen: Seen
    decision: object | None
    numbers: int
    continuations: int
    transaction: int  # hash of the transaction's identifiers
    cseq: int
    turn: int  # the slice of time in which the attempt was last seen
    copies: int
    followers: tuple["AttemptEntry", ...]  # the attempt's further transactions, on its first one


class AttemptTablePy:
    """Tells new call attempts from repeated ones, in bounded memory.

    capacity: attempts remembered; one more and the oldest is forgotten and counted in `overflows`.
    lifetime: seconds that an attempt is remembered after its last copy.
    Raises ValueError if either is not positive.
    """

    def __init__(self, capacity: int = CAPACITY, lifetime: float = LIFETIME_SECONDS) -> None:
        if capacity < 1 or not 0.0 < lifetime < float("inf"):
            raise ValueError(f"capacity {capacity} and lifetime {lifetime} must be positive")
        self.overflows = 0
        self._capacity = capacity
        self._clock = Ticks(lifetime / SLICES, longest=SLICES + 1)  # which expires everything
        self._entries: dict[int, AttemptEntry] = {}
        # Every key of _entries is in exactly one of these: _head (oldest last), closed slices, _queue.
        self._head: list[int] = []
        self._head_turn = 0
        self._closed: deque[tuple[int, list[int]]] = deque()
        self._queue: list[int] = []
        self._due = False  # whether _head has expired

    def __len__(self) -> int:
        """Attempts held, including expired ones that are not yet removed."""
        return len(self._entries)

    @staticmethod
    def fingerprint(calling: str, called: str) -> int:
        """What is remembered of the numbers of an attempt: a hash, the same one within this table alone."""
        return identify_py(calling, called)

    def queued(self) -> int:
        """How many keys wait to be forgotten: each attempt has one."""
        return len(self._head) + sum(len(keys) for _, keys in self._closed) + len(self._queue)

    def observe(self, trunk: str, scan: Scan, now: float) -> AttemptEntry:
        """Say what this INVITE is. Only for INVITEs without To tag; `now` in seconds of a monotonic clock.

        For a clock that goes backwards, time stands still here. Never raises.
        """
        # Once per call attempt of the whole product: written out, where calls would double what it costs.
        clock = self._clock
        if not clock.start <= now < clock.end:
            self._next_slice(now)
        cseq = scan.cseq
        tag = scan.from_tag
        key = identify_py(trunk, scan.call_id, tag, b"" if tag else scan.from_uri)
        transaction = identify_py(scan.branch, scan.sent_by, b"%d" % cseq, scan.request_uri)
        entries = self._entries
        turn = clock.count
        known = entries.get(key)
        if known is None:
            self._queue.append(key)
        elif turn - known.turn <= SLICES:
            return self._again(known, key, transaction, cseq)
        entry = AttemptEntry()
        entry.seen = NEW
        entry.decision = None
        entry.numbers = 0
        entry.continuations = 0
        entry.transaction = transaction
        entry.cseq = cseq
        entry.turn = turn
        entry.copies = 1
        entry.followers = ()
        entries[key] = entry
        if self._due:
            self._forget_expired()
        if len(entries) > self._capacity:
            self._forget_oldest()
        return entry

    def _again(self, first: AttemptEntry, key: int, transaction: int, cseq: int) -> AttemptEntry:
        """An INVITE of a known attempt: a copy in one of its transactions, or a further transaction."""
        first.turn = self._clock.count
        if first.transaction == transaction:
            return _copy(first)
        for follower in first.followers:
            if follower.transaction == transaction:
                return _copy(follower)
        if len(first.followers) < FOLLOW_UPS:
            return self._follow_up(first, transaction, cseq)
        return self._excess(identify_py(b"%d" % key, b"%d" % transaction), transaction, cseq)

    def _follow_up(self, first: AttemptEntry, transaction: int, cseq: int) -> AttemptEntry:
        """A further transaction of the attempt: a fork if its CSeq was there before, else a retry."""
        forked = cseq == first.cseq or any(cseq == follower.cseq for follower in first.followers)
        entry = _entry(Seen.MERGED if forked else Seen.CONTINUATION, transaction, cseq, self._clock.count)
        entry.decision, entry.numbers = first.decision, first.numbers
        entry.continuations = len(first.followers) + 1
        first.followers += (entry,)
        return entry

    def _excess(self, key: int, transaction: int, cseq: int) -> AttemptEntry:
        """A transaction beyond the bound of its attempt: an attempt of its own, whose copies are copies."""
        entry = self._entries.get(key)
        if entry is None:
            self._queue.append(key)
        elif self._clock.count - entry.turn <= SLICES:
            entry.turn = self._clock.count
            return _copy(entry)
        entry = self._entries[key] = _entry(Seen.EXCESS, transaction, cseq, self._clock.count)
        entry.continuations = FOLLOW_UPS
        if self._due:
            self._forget_expired()
        if len(self._entries) > self._capacity:
            self._forget_oldest()
        return entry

    def export(self, now: float, part: int = 0, parts: int = 1) -> tuple[bytes, list[object], float]:
        """Attempts whose copies may still come, the decisions on them, and seconds since the slice of time began that
        ages count from. A decision may be there twice.

        In several parts, so that it takes a while but never long: what comes in between two of them may be in none.
        """
        if not self._clock.start <= now < self._clock.end:
            self._next_slice(now)
        kept: list[bytes] = []
        decisions: list[object] = []
        entries = list(self._entries.items())
        for key, first in entries[len(entries) * part // parts : len(entries) * (part + 1) // parts]:
            age = self._clock.count - first.turn
            if age > SLICES:
                continue
            for entry in (first, *first.followers):
                place = 0
                if entry.decision is not None:
                    if not decisions or decisions[-1] is not entry.decision:
                        decisions.append(entry.decision)
                    place = len(decisions)
                copies, numbers, cseq = min(entry.copies, COPIES + 1), entry.numbers & WORD, entry.cseq & WORD
                follows = entry is not first
                kept.append(
                    KEPT.pack(key, entry.transaction, numbers, cseq, place, age, copies, entry.continuations, follows)
                )
        return b"".join(kept), decisions, self._clock.phase(now)

    def restore(self, data: "Buffer", decisions: list[object], now: float, elapsed: float) -> int:
        """Take back what another table exported; how many attempts. Only into a table that nothing else has come to.
        `elapsed` are seconds since the slice of time began that its ages count from.

        `decisions` are those that came with it, or what stands for them now: None for one that is not known any more.
        Raises ValueError for what no table exported.
        """
        if memoryview(data).nbytes % KEPT.size:
            raise ValueError("no whole number of transactions")
        before = len(self._entries)
        if not before:
            self._clock.count += SLICES + 1
        older = self._clock.resume(now, max(elapsed, 0.0))
        aged: list[list[tuple[int, AttemptEntry]]] = [[] for _ in range(SLICES + 1)]
        first: AttemptEntry | None = None
        for key, transaction, numbers, cseq, place, age, copies, continuations, follows in KEPT.iter_unpack(data):
            if place > len(decisions):
                raise ValueError("a decision that is not there")
            if age + older > SLICES or (follows and first is None):
                first = None
                continue
            entry = _entry(Seen.RETRANSMISSION, transaction, cseq, self._clock.count - age - older)
            entry.decision = decisions[place - 1] if place else None
            entry.numbers, entry.copies, entry.continuations = numbers, copies, continuations
            if not follows:
                first = entry
                aged[age + older].append((key, entry))
            elif first is not None and len(first.followers) < FOLLOW_UPS:
                first.followers += (entry,)
        for age in range(SLICES, -1, -1):
            fresh = [(key, entry) for key, entry in aged[age] if self._entries.setdefault(key, entry) is entry]
            if fresh:
                self._closed.append((self._clock.count - age, [key for key, _ in fresh]))
        taken = len(self._entries) - before
        while len(self._entries) > self._capacity:
            self._forget_oldest()
        self._check_head()
        return taken

    def _next_slice(self, now: float) -> None:
        """Begin the slice of time that holds `now`; attempts of a slice long ago become due."""
        turn = self._clock.count
        if self._clock.advance(now):
            if self._queue:
                self._closed.append((turn, self._queue))
                self._queue = []
            self._check_head()

    def _check_head(self) -> None:
        """Have the oldest closed slice as head, and know whether it has expired."""
        if not self._head and self._closed:
            self._head_turn, self._head = self._closed.popleft()
            self._head.reverse()  # so that popping takes the oldest key first
        self._due = bool(self._head) and self._clock.count - self._head_turn > SLICES

    def _forget_expired(self) -> None:
        """Remove a few expired attempts; those that were seen after they were queued are queued again."""
        for _ in range(FORGET_AT_ONCE):
            key = self._head.pop()
            if self._clock.count - self._entries[key].turn > SLICES:
                del self._entries[key]
            else:
                self._queue.append(key)
            if not self._head:
                self._check_head()
                if not self._due:
                    return

    def _forget_oldest(self) -> None:
        """Make room for one: the attempt that was queued first goes, expired or not."""
        if not self._head:
            if not self._closed:
                self._closed.append((self._clock.count, self._queue))
                self._queue = []
            self._check_head()
        entry = self._entries.pop(self._head.pop())
        self.overflows += self._clock.count - entry.turn <= SLICES
        if not self._head:
            self._check_head()


def _entry(seen: Seen, transaction: int, cseq: int, turn: int) -> AttemptEntry:
    entry = AttemptEntry()
    entry.seen = seen
    entry.decision = None
    entry.numbers = 0
    entry.continuations = 0
    entry.transaction = transaction
    entry.cseq = cseq
    entry.turn = turn
    entry.copies = 1
    entry.followers = ()
    return entry


def _copy(entry: AttemptEntry) -> AttemptEntry:
    """Another copy of a known request; too many of them are calls that hide in a finished transaction."""
    entry.copies += 1
    if entry.copies > COPIES:
        entry.seen = Seen.EXCESS
        entry.decision = None
    else:
        entry.seen = Seen.RETRANSMISSION
    return entry


def _compiled_table(capacity: int = CAPACITY, lifetime: float = LIFETIME_SECONDS) -> AttemptTablePy:
    assert native.gate is not None
    table: AttemptTablePy = native.gate.AttemptTable(tuple(Seen), capacity, lifetime)
    return table


if TYPE_CHECKING or native.gate is None:  # noqa: SIM108  a conditional expression would be no alias of a type
    AttemptTable = AttemptTablePy
else:
    AttemptTable = _compiled_table
