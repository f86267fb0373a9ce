"""Server INVITE transactions that are answered at once with 300 to 699 (RFC 3261 17.2.1). Sans-IO.

Knows timers, states and the bytes of an answer; time is an argument and sending is for the caller. Must not know
sockets, policy or how a message is read: a transaction is found by `key`, which whoever answers derives from what
RFC 3261 17.2.3 compares (topmost Via, Call-ID, CSeq number), so that an INVITE, its copies, its ACK and its CANCEL
have the same one.

Every answer is final and comes at once, so there is no Proceeding state and never a 100 Trying (17.2.1 asks for it
only where the answer takes more than 200 ms).

The bound: when the table is full, the transaction that was acknowledged longest ago goes first; it only waits for
copies of an ACK, which nobody answers anyway. If none was acknowledged, the new answer is not remembered and
counted in `overflows`: it is then sent as a stateless server sends it (RFC 3261 8.2.7), never by itself again, but
to every copy of the INVITE. That needs the same bytes for every copy, which a To tag without randomness gives.

`ServerTransactions` is the reference; `datagram_transactions` gives its compiled twin (agent/native/transactions.c)
where there is one: the compiled hot path works on it too.
"""

from collections import deque
from enum import IntEnum, auto
from typing import Final, Generic, TypeVar

from agent import native

T1: Final = 0.5
"""Seconds: the estimate of a round trip (RFC 3261 17.1.1.1), and the first interval of Timer G."""
T2: Final = 4.0
"""Seconds: the longest interval between two copies of an answer."""
T4: Final = 5.0
"""Seconds that a message may stay in the network: Timer I, for copies of the ACK (RFC 3261 table 4)."""
PATIENCE: Final = 64 * T1
"""Timer H: seconds until whoever has not acknowledged by then is given up."""

CAPACITY: Final = 1 << 15
"""Transactions at once. A thousand peers' worth of answers a second that nobody acknowledges for 32 s, in about
30 MB; of acknowledged ones so many that 6,500 a second keep their whole Timer I."""

Destination = TypeVar("Destination")


class State(IntEnum):  # an integer, as hashing any other member is slow
    COMPLETED = auto()  # the answer is sent, the ACK has not come
    CONFIRMED = auto()  # the ACK has come; copies of it are absorbed
    TERMINATED = auto()


class Event(IntEnum):
    INVITE = auto()  # a copy of the request
    ACK = auto()
    CANCEL = auto()
    TIMER_G = auto()  # unreliable transports only: send the answer again
    TIMER_H = auto()  # no ACK within 64*T1
    TIMER_I = auto()  # no more copies of the ACK will come


# RFC 3261 figure 7 without Proceeding. What is not listed cannot happen, and raises KeyError if it does.
# A CANCEL changes nothing once there is a final answer (9.2); a copy of an INVITE that was acknowledged is old.
TRANSITIONS: Final[dict[tuple[State, Event], tuple[State, bool]]] = {
    # state, event: next state, whether the answer is sent (again)
    (State.COMPLETED, Event.INVITE): (State.COMPLETED, True),
    (State.COMPLETED, Event.ACK): (State.CONFIRMED, False),
    (State.COMPLETED, Event.CANCEL): (State.COMPLETED, False),
    (State.COMPLETED, Event.TIMER_G): (State.COMPLETED, True),
    (State.COMPLETED, Event.TIMER_H): (State.TERMINATED, False),
    (State.CONFIRMED, Event.INVITE): (State.CONFIRMED, False),
    (State.CONFIRMED, Event.ACK): (State.CONFIRMED, False),
    (State.CONFIRMED, Event.CANCEL): (State.CONFIRMED, False),
    (State.CONFIRMED, Event.TIMER_I): (State.TERMINATED, False),
}
COMPLETED: Final = State.COMPLETED  # looking a member up in its enumeration is slow
CONFIRMED: Final = State.CONFIRMED
TERMINATED: Final = State.TERMINATED


def _intervals() -> tuple[float, ...]:
    """How long Timer G runs each time, and at last Timer H for what is left of 64*T1."""
    intervals, interval, total = [], T1, 0.0
    while total + interval < PATIENCE:
        intervals.append(interval)
        total += interval
        interval = min(2 * interval, T2)
    return (*intervals, PATIENCE - total)


INTERVALS: Final = _intervals()
_GIVE_UP: Final = len(INTERVALS) - 1  # the stage at whose end Timer H fires
_RELIABLE: Final = len(INTERVALS)  # the stage of a reliable transport: Timer H alone


class Transaction(Generic[Destination]):
    """One answered INVITE. `payload` is kept until the ACK has come."""

    __slots__ = ("deadline", "destination", "key", "payload", "stage", "state")

    key: str
    payload: bytes
    destination: Destination
    state: State
    stage: int  # which interval is running
    deadline: float


class ServerTransactions(Generic[Destination]):
    """The answered INVITEs of one transport. `now` is monotonic seconds and must never go backwards.

    capacity: transactions at once. Raises ValueError if it is not positive.
    Each running interval has a queue of its own: what entered it first leaves it first, so that no timer costs more
    than an append and a popleft. A transaction whose timer no longer matters stays in its queue until its turn, or
    until such ones are the greater part of the queue.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"capacity {capacity} must be positive")
        self.overflows = 0  # answers that could not be remembered
        self.shortened = 0  # acknowledged transactions that went before their time
        self.retransmissions = 0  # answers sent again: to a copy of the INVITE, or by Timer G
        self.acknowledged = 0
        self.unacknowledged = 0  # given up by Timer H
        self.waiting = 0  # answers whose ACK has not come
        self._capacity = capacity
        self._known: dict[str, Transaction[Destination]] = {}
        self._queues: list[deque[Transaction[Destination]]] = [deque() for _ in range(_RELIABLE + 1)]
        self._confirmed: deque[Transaction[Destination]] = deque()

    def __len__(self) -> int:
        return len(self._known)

    def answer(self, key: str, payload: bytes, destination: Destination, now: float, *, reliable: bool = False) -> None:
        """Remember the final answer to a new INVITE, which the caller sends now.

        `reliable`: over TCP or TLS the answer is sent once, and the table only waits for the ACK.
        """
        if key in self._known:  # a caller that reuses a finished transaction: the newer answer counts
            self._forget(self._known[key])
        if len(self._known) >= self._capacity and not self._make_room():
            self.overflows += 1
            return
        it: Transaction[Destination] = Transaction()  # no __init__: it would cost as much as the rest of this
        it.key = key
        it.payload = payload
        it.destination = destination
        it.state = COMPLETED
        it.stage = stage = _RELIABLE if reliable else 0
        it.deadline = now + (PATIENCE if reliable else T1)
        self._known[key] = it
        self.waiting += 1
        self._enqueue(self._queues[stage], it)

    def invite(self, key: str) -> tuple[bytes, Destination] | None:
        """What a copy of an INVITE is answered with, and where: b"" for nothing, None if the INVITE is not known."""
        it = self._known.get(key)
        if it is None:
            return None
        if not self._move(it, Event.INVITE):
            return b"", it.destination
        self.retransmissions += 1
        return it.payload, it.destination

    def ack(self, key: str, now: float) -> bool:
        """Take in an ACK. False if it acknowledges nothing known, which is as well: no ACK is ever answered."""
        it = self._known.get(key)
        if it is None:
            return False
        waited = it.state is COMPLETED
        self._move(it, Event.ACK)
        if waited:
            self.waiting -= 1
            self.acknowledged += 1
            it.payload = b""
            if it.stage == _RELIABLE:  # Timer I is 0: a reliable transport brings no copies
                self._forget(it)
            else:
                it.deadline = now + T4
                self._enqueue(self._confirmed, it)
        return True

    def cancel(self, key: str) -> bool:
        """Whether the INVITE that a CANCEL names is known: 200 to the CANCEL if so, else 481 (RFC 3261 9.2)."""
        it = self._known.get(key)
        if it is None:
            return False
        self._move(it, Event.CANCEL)
        return True

    def next_deadline(self) -> float | None:
        """When `due` has something to do, at the earliest; None if nothing is waited for."""
        heads = [self._head(stage) for stage in range(len(self._queues))]
        confirmed = self._confirmed[0] if self._confirmed else None
        return min((it.deadline for it in (*heads, confirmed) if it is not None), default=None)

    def due(self, now: float) -> list[tuple[bytes, Destination]]:
        """Let every timer fire whose time has come; what has to be sent, and where to."""
        out: list[tuple[bytes, Destination]] = []
        for stage, queue in enumerate(self._queues):
            while (it := self._head(stage)) is not None and it.deadline <= now:
                queue.popleft()
                if stage >= _GIVE_UP:
                    self._move(it, Event.TIMER_H)
                    self._give_up(it)
                elif self._move(it, Event.TIMER_G):
                    out.append((it.payload, it.destination))
                    self.retransmissions += 1
                    self._run(it, stage + 1, now)
        while self._confirmed and self._confirmed[0].deadline <= now:
            old = self._confirmed.popleft()
            if old.state is CONFIRMED:
                self._move(old, Event.TIMER_I)
                self._forget(old)
        return out

    def _head(self, stage: int) -> Transaction[Destination] | None:
        """Who is next in this interval. Those for whom it is over go: their deadline is another one by now, and must
        not hold up who stands behind them."""
        queue = self._queues[stage]
        while queue:
            it = queue[0]
            if it.state is COMPLETED and it.stage == stage:
                return it
            queue.popleft()
        return None

    def _run(self, it: Transaction[Destination], stage: int, now: float) -> None:
        """Start the next interval. From the time it should have begun, but late fires must not be caught up with."""
        it.stage = stage
        it.deadline = now + INTERVALS[stage]
        self._enqueue(self._queues[stage], it)

    def _enqueue(self, queue: deque[Transaction[Destination]], it: Transaction[Destination]) -> None:
        queue.append(it)
        if len(queue) > 2 * self._capacity:  # at least half of it is over: one pass in so many appends removes that
            waited_for = CONFIRMED if queue is self._confirmed else COMPLETED
            kept = [one for one in queue if one.state is waited_for and self._known.get(one.key) is one]
            queue.clear()
            queue.extend(kept)

    def _move(self, it: Transaction[Destination], event: Event) -> bool:
        """Take the transaction to its next state; whether its answer is to be sent."""
        it.state, send = TRANSITIONS[it.state, event]
        return send

    def _give_up(self, it: Transaction[Destination]) -> None:
        self.unacknowledged += 1
        self.waiting -= 1
        self._known.pop(it.key, None)

    def _forget(self, it: Transaction[Destination]) -> None:
        """Let go of a transaction before or at its end; its queue drops it when its turn comes."""
        self.waiting -= it.state is COMPLETED
        it.state = TERMINATED
        if self._known.get(it.key) is it:
            del self._known[it.key]

    def _make_room(self) -> bool:
        """Forget the transaction that was acknowledged first; False if there is none."""
        while self._confirmed:
            it = self._confirmed.popleft()
            if it.state is CONFIRMED:
                self.shortened += 1
                self._forget(it)
                return True
        return False


def datagram_transactions(capacity: int = CAPACITY) -> ServerTransactions[bytes]:
    """A table for one UDP socket, of the twin in use. Keys are tags of `agent.sip.tags`, destinations a sockaddr."""
    if native.gate is None:
        return ServerTransactions(capacity)
    table: ServerTransactions[bytes] = native.gate.Transactions(capacity)
    return table
