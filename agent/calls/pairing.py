"""Which INVITE that the SBC sends belongs to which that it got: ingress and egress leg of one call, and their transit.

Sans-IO: messages in order, who is at the other end, and two clocks come in; results go to callbacks. Knows identifiers
and numbers; must not know sockets, policy or screening.

A proxy keeps the Call-ID; a back-to-back user agent makes a new one. Then the call is known by an Identity token, which
belongs to one call, and where there is none by its numbers, within a few seconds. One incoming INVITE may go out
several times (forks, route advance): each is a leg of its own with its own transit, and all are one call. Messages may
be seen in the wrong order, where each interface has its own queue: an outgoing INVITE waits a moment for its call, and
what answers either leg is kept until the other one is there.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from agent.calls.legs import AnswerResult, Match, PairingCounts, TransitCounts, TransitResult
from agent.calls.matching import Index, Keys, expired, keys_of
from agent.calls.transit import (
    BLOCKED,
    Answer,
    IdentityRow,
    compare_answers,
    compare_identity,
    read_answer,
    read_identity,
)
from agent.model import Scan

CAPACITY: Final = 1 << 14
"""Calls remembered: 80 a second for their lifetime, in 25 MB; more than that forgets the oldest, and says so."""

LIFETIME: Final = 200.0
"""Seconds that a call is remembered: a callee may ring for three minutes (RFC 3261 16.6, Timer C) before it refuses."""

WINDOW: Final = 4.0
"""Seconds between the legs of a call that is known by its numbers alone: what an SBC asks databases for."""

PATIENCE: Final = 2.0
"""Seconds that an outgoing INVITE waits for its call to be seen, behind a busy interface."""

MAX_WAITING: Final = 4096
MAX_LEGS: Final = 8
"""Outgoing INVITEs of one call that are remembered: route advance rarely tries more than three."""

MAX_PAIRS: Final = 1024
"""Pairs of trunks that are counted by name; a policy has some dozens."""

OTHERS: Final = "(others)"
FORGET_AT_ONCE: Final = 2  # with each INVITE; more than one, so that forgetting overtakes what comes
FORGET_AT_REST: Final = 512  # of each table, when nothing else is to be done


class Side(Enum):
    """Which way a message goes."""

    IN = "in"  # to the SBC
    OUT = "out"  # from the SBC


class _Final(NamedTuple):
    """A final response, when it was seen, and who is at the other end."""

    answer: Answer
    when: float
    trunk: str


@dataclass(slots=True, eq=False)
class _Leg:
    """One outgoing INVITE."""

    key: int
    call_id: bytes
    from_tag: bytes
    cseq: int
    trunk: str
    when: float
    since: float
    rows: tuple[IdentityRow, ...]
    keys: Keys
    call: "_Call | None" = None  # None while it waits
    came: "_Final | None" = None  # the refusal that answered it


@dataclass(slots=True, eq=False)
class _Call:
    """One incoming INVITE and what became of it. `when` is epoch seconds, `since` the clock of the tables."""

    key: int
    call_id: bytes
    trunk: str
    cseq: int
    when: float
    since: float
    rows: tuple[IdentityRow, ...]
    keys: Keys
    transactions: tuple[int, ...]
    match: Match | None = None  # of its first leg
    legs: list[_Leg] = field(default_factory=list)
    came: _Final | None = None  # the refusal that came last from the callee's side
    went: _Final | None = None  # what the SBC told the caller
    settled: bool = False


class Pairing:
    """Calls on their way through the SBC. Also a component of the daemon (agent.ops.component.Component).

    `on_transit` and `on_answer` get every result, at once, and must not raise.
    """

    name: Final = "transit"

    def __init__(
        self,
        on_transit: Callable[[TransitResult], None] = lambda _result: None,
        on_answer: Callable[[AnswerResult], None] = lambda _result: None,
        capacity: int = CAPACITY,
    ) -> None:
        self.counts = PairingCounts()
        self.trunks: dict[tuple[str, str], TransitCounts] = {}  # (ingress, egress)
        self._on_transit = on_transit
        self._on_answer = on_answer
        self._capacity = capacity
        self._calls: dict[int, _Call] = {}  # the oldest first
        self._by_key: dict[int, _Call] = {}  # by Call-ID and by token: the latest that has it
        self._by_numbers: Index[_Call] = Index()
        self._transactions: dict[int, _Call] = {}
        self._legs: dict[int, _Leg] = {}
        self._waiting: dict[int, _Leg] = {}  # the oldest first
        self._waiting_by: Index[_Leg] = Index()

    def __len__(self) -> int:
        return len(self._calls)

    def observe(self, message: Scan, side: Side, trunk: str, when: float, now: float, country: str = "1") -> None:
        """Take in one message that came from the trunk or goes to it. `when` is epoch seconds, `now` monotonic ones.

        `country` is the trunk's country code for numbers without one. Reads INVITEs without To tag and final
        responses to them, ignores everything else, never raises for what a peer sent.
        """
        if message.status:
            if message.status >= 200 and message.cseq_method == "INVITE":
                self._final(message, side, when)
        elif message.method == "INVITE" and not message.to_tag:
            self.tick(now, FORGET_AT_ONCE)
            if side is Side.IN:
                self._incoming(message, trunk, when, now, country)
            else:
                self._outgoing(message, trunk, when, now, country)

    def tick(self, now: float, most: int = FORGET_AT_REST) -> None:
        """Forget what is too old, at most so many of each kind. Also for quiet times: call it every second or so."""
        for leg in expired(self._waiting, now - PATIENCE, most):
            self._give_up(leg)
        for call in expired(self._calls, now - LIFETIME, most):
            self._forget(call)

    # ---- the way in ----

    def _incoming(self, message: Scan, trunk: str, when: float, now: float, country: str) -> None:
        key = hash((message.call_id, message.from_tag))
        transaction = _transaction(message)
        known = self._calls.get(key)
        if known is not None:
            self._again(known, message, transaction, country)
            return
        self.counts.calls += 1
        rows = read_identity(message.identity)
        keys = keys_of(message, rows, country)
        call = _Call(key, message.call_id, trunk, message.cseq, when, now, rows, keys, (transaction,))
        self._calls[key] = call
        self._transactions[transaction] = call
        self._index(call)
        self._claim(call)
        if len(self._calls) > self._capacity:
            self.counts.calls_overflow += 1
            self._forget(next(iter(self._calls.values())))

    def _again(self, call: _Call, message: Scan, transaction: int, country: str) -> None:
        """A copy, a fork, or the retry after a challenge, whose rows are those that must go out."""
        if transaction not in call.transactions:
            for old in call.transactions[: 1 - MAX_LEGS]:
                self._drop_transaction(old, call)
            call.transactions = (*call.transactions[1 - MAX_LEGS :], transaction)
            self._transactions[transaction] = call
        if message.cseq > call.cseq:
            self._unindex(call)
            call.cseq = message.cseq
            call.rows = read_identity(message.identity)
            call.keys = keys_of(message, call.rows, country)
            call.came = call.went = None
            self._index(call)

    def _claim(self, call: _Call) -> None:
        """Legs that were seen before the call they belong to."""
        if not self._waiting:
            return
        for match, key in call.keys.all():
            for leg in self._waiting_by.get(key):
                if match is not Match.NUMBERS or (call.match is None and _near(call, leg)):
                    self._end_waiting(leg)
                    self._pair(call, leg, match)

    # ---- the way out ----

    def _outgoing(self, message: Scan, trunk: str, when: float, now: float, country: str) -> None:
        key = _transaction(message)
        if key in self._legs:
            return  # a copy
        rows = read_identity(message.identity)
        keys = keys_of(message, rows, country)
        leg = _Leg(key, message.call_id, message.from_tag, message.cseq, trunk, when, now, rows, keys)
        self._legs[key] = leg
        found = self._find(leg)
        if found is not None:
            self._pair(*found)
            return
        self._waiting[key] = leg
        for _, hashed in keys.all():
            self.counts.alike_overflow += self._waiting_by.add(hashed, leg)
        if len(self._waiting) > MAX_WAITING:
            self.counts.waiting_overflow += 1
            self._give_up(next(iter(self._waiting.values())))

    def _find(self, leg: _Leg) -> tuple[_Call, _Leg, Match] | None:
        for match, key in leg.keys.strong():
            call = self._by_key.get(key)
            if call is not None:
                return call, leg, match
        free = [call for call in self._alike(leg) if call.match is None]
        self.counts.ambiguous += len(free) > 1
        return (min(free, key=_age), leg, Match.NUMBERS) if free else None  # the call that has waited longest

    def _alike(self, leg: _Leg) -> list[_Call]:
        """The calls with the same numbers, shortly before."""
        alike = {
            call.key: call
            for key in leg.keys.numbers
            for call in self._by_numbers.get(key)
            if _near(call, leg) and call.match in (None, Match.NUMBERS)
        }
        return list(alike.values())

    def _pair(self, call: _Call, leg: _Leg, match: Match) -> None:
        leg.call = call
        first, again = not call.legs, _continues(call, leg)
        if len(call.legs) >= MAX_LEGS:
            self.counts.legs_overflow += 1
            self._drop_leg(leg)
            return
        call.legs.append(leg)
        self._by_key.setdefault(leg.keys.call_id, call)  # what else has its Call-ID belongs to it, too
        if again:
            return
        if first:
            call.match = match
            self.counts.paired += 1
            self.counts.by_call_id += match is Match.CALL_ID
            self.counts.by_identity += match is Match.IDENTITY
            self.counts.by_numbers += match is Match.NUMBERS
        transit = compare_identity(call.rows, leg.rows)
        self._between(call.trunk, leg.trunk).add(transit, first)
        self._on_transit(
            TransitResult(leg.when, call.call_id, leg.call_id, call.trunk, leg.trunk, match, first, transit)
        )
        if leg.came is not None:
            call.came = leg.came
            self._settle(call)

    def _between(self, ingress: str, egress: str) -> TransitCounts:
        pair = (ingress, egress)
        if pair not in self.trunks and len(self.trunks) >= MAX_PAIRS:
            pair = (OTHERS, OTHERS)
        return self.trunks.setdefault(pair, TransitCounts())

    # ---- the way back ----

    def _final(self, message: Scan, side: Side, when: float) -> None:
        transaction = _transaction(message)
        if side is Side.IN:
            leg = self._legs.get(transaction)
            if leg is None:
                return
            blocks = message.status in BLOCKED
            leg.came = _Final(read_answer(message.raw), when, leg.trunk) if blocks else None
            if leg.call is not None:
                # Only the last one counts: after a leg that was refused otherwise, the SBC may have its own opinion.
                leg.call.came = leg.came
                self._settle(leg.call)
        else:
            call = self._transactions.get(transaction)
            if call is None or call.went is not None or message.status < 300:
                return
            call.went = _Final(read_answer(message.raw), when, call.trunk)  # its legs may be seen later
            self._settle(call)

    def _settle(self, call: _Call) -> None:
        """Compare, once both sides of a refusal are there, whichever was seen first; by its time, not by its place."""
        came, went = call.came, call.went
        if call.settled or came is None or went is None or went.when < came.when:
            return
        call.settled = True
        lost = compare_answers(came.answer, went.answer)
        counts = self._between(call.trunk, came.trunk)
        counts.refusals += 1
        counts.refusals_altered += bool(lost)
        self._on_answer(AnswerResult(went.when, call.call_id, call.trunk, came.trunk, came.answer, went.answer, lost))

    # ---- the tables ----

    def _index(self, call: _Call) -> None:
        for _, key in call.keys.strong():
            self._by_key[key] = call
        for key in call.keys.numbers:
            self.counts.alike_overflow += self._by_numbers.add(key, call)

    def _unindex(self, call: _Call) -> None:
        for _, key in call.keys.strong():
            if self._by_key.get(key) is call:
                del self._by_key[key]
        for key in call.keys.numbers:
            self._by_numbers.remove(key, call)

    def _forget(self, call: _Call) -> None:
        self.counts.not_forwarded += not call.legs
        del self._calls[call.key]
        self._unindex(call)
        for transaction in call.transactions:
            self._drop_transaction(transaction, call)
        for leg in call.legs:
            self._drop_leg(leg)
            if self._by_key.get(leg.keys.call_id) is call:
                del self._by_key[leg.keys.call_id]

    def _drop_transaction(self, transaction: int, call: _Call) -> None:
        if self._transactions.get(transaction) is call:
            del self._transactions[transaction]

    def _drop_leg(self, leg: _Leg) -> None:
        self._legs.pop(leg.key, None)

    def _give_up(self, leg: _Leg) -> None:
        """No further call was seen: it is another leg of one that has gone out before, or the SBC's own."""
        self._end_waiting(leg)
        alike = self._alike(leg)
        if alike:
            self._pair(max(alike, key=_age), leg, Match.NUMBERS)
        else:
            self.counts.own += 1
            self._drop_leg(leg)

    def _end_waiting(self, leg: _Leg) -> None:
        del self._waiting[leg.key]
        for _, key in leg.keys.all():
            self._waiting_by.remove(key, leg)

    # ---- a component of the daemon ----

    def health(self) -> tuple[bool, str]:
        """Always well; the words are what the operator should know of Identity on its way."""
        signed = sum(counts.signed for counts in self.trunks.values())
        if not signed:
            return True, f"{self.counts.paired} calls seen on both legs, none signed"
        intact = sum(counts.intact for counts in self.trunks.values())
        words = f"Identity kept on {intact} of {signed} signed legs ({100 * intact / signed:.1f} %)"
        if intact < signed:
            (ingress, egress), worst = min(self.trunks.items(), key=lambda item: item[1].kept)
            words += f"; worst: {ingress} to {egress}, {100 * worst.kept:.1f} %"
        return True, words

    def counters(self) -> Mapping[str, int]:
        """Everything counted since the start; the last two are what is held now."""
        sums = {
            name: sum(getattr(counts, name) for counts in self.trunks.values())
            for name in TransitCounts.__dataclass_fields__
            if name != "calls"
        }
        held = {"calls_held": len(self._calls), "legs_waiting": len(self._waiting)}
        return {f"transit_{name}": number for name, number in (asdict(self.counts) | sums | held).items()}


def _age(call: _Call) -> float:
    return call.when


def _transaction(message: Scan) -> int:
    """RFC 3261 17.1.3, 17.2.3: the topmost branch; with the Call-ID, so that peers of RFC 2543 stay apart."""
    return hash((message.call_id, message.branch, message.cseq))


def _near(call: _Call, leg: _Leg) -> bool:
    """Whether a leg was sent so soon after its call that the same numbers mean the same call."""
    return 0.0 <= leg.when - call.when <= WINDOW


def _continues(call: _Call, leg: _Leg) -> bool:
    """Whether it is the retry of an earlier leg after a challenge: the same dialog to be, a higher CSeq."""
    return any(
        (other.call_id, other.from_tag, other.trunk) == (leg.call_id, leg.from_tag, leg.trunk) and leg.cseq > other.cseq
        for other in call.legs
    )
