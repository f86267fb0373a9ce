"""How many calls are in progress, per key: the table of calls, their deadlines and their counts.

Knows when a call has lasted too long and how many there may be. Must not know what the keys mean, nor any policy;
what a message means for a call is in `agent.calls.call`.

What is counted: an admitted INVITE is one call in progress under each of its keys, from `open` until its call
is over. A call is everything with one Call-ID and one From tag. It is over when none of its INVITEs waits for a
final response and none of its dialogs is open. A forked INVITE that is answered twice has two dialogs (one per
To tag) and is still one call in progress, until the last of them has ended. A caller that reuses the
identifiers of a call that is not over opens it again: one more call in progress, and both last until the call
is over. So whoever hides several calls behind one Call-ID is counted too long, never too little.

The table must see the responses, and only those that the SBC sent or received: from requests alone it cannot
tell an answered call from a refused one, and lets each go after `setup_seconds`. Session timers (RFC 4028) are
not followed, as the scan does not read Session-Expires; a lost BYE is made up for by `max_seconds`.
"""

from array import array
from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from math import ceil
from typing import Final

from agent.calls.call import ANY_BRANCH, NO_DIALOGS, TRANSITIONS, Call, Event, State, meaning
from agent.calls.ticks import Ticks
from agent.hashing import identify
from agent.model import Scan

CAPACITY: Final = 1 << 17
"""Calls in progress on one SBC: twice the 64,000 of the largest boxes. At 700 bytes each, 90 MB if ever full."""

SETUP_SECONDS: Final = 200.0
"""Timer C is more than 180 s from the last provisional response (RFC 3261 16.6 step 11); the rest is margin."""

SETTLE_SECONDS: Final = 40.0
"""A challenged caller retries within 64*T1 = 32 s or not at all, and a cancelled INVITE without final response
is over after as long (RFC 3261 9.1). With margin for delay."""

MAX_SECONDS: Final = 4 * 3600.0
"""No call is counted longer: its BYE was lost."""

TICK_SECONDS: Final = 0.25
"""Deadlines are kept in ticks; short, so that the calls of one tick are few and looking at them is quick."""

MOVES_AT_ONCE: Final = 64
"""Calls whose deadline has moved, that are passed over to find one to forget: some 50 us, and soon all are moved."""

SETUP: Final = State.SETUP  # looking a member up in its enumeration is slow


class SessionTable:
    """Counts calls in progress per key, in bounded memory and for a bounded time.

    capacity: calls in progress; one more, and the one with the earliest deadline is forgotten and counted in
    `overflows`: first the challenged and cancelled, then those in setup, the answered last.
    setup_seconds: how long a call may ring without a further provisional response.
    max_seconds: how long an answered call is counted, and for how long provisional responses prolong a setup.
    Raises ValueError if one is not positive. A call may last a quarter of a second longer than that.
    `now` is in seconds of a monotonic clock; for one that goes backwards, time stands still here.
    """

    def __init__(
        self, capacity: int = CAPACITY, setup_seconds: float = SETUP_SECONDS, max_seconds: float = MAX_SECONDS
    ) -> None:
        if capacity < 1 or not (0.0 < setup_seconds < float("inf") and 0.0 < max_seconds < float("inf")):
            raise ValueError(
                f"capacity {capacity}, setup_seconds {setup_seconds} and max_seconds {max_seconds} must be positive"
            )
        self.in_progress = 0  # admitted INVITEs whose call is not over
        self.answered = 0  # calls that were answered, ever
        self.expired = 0  # calls that the clock ended, ever
        self.overflows = 0  # calls forgotten for want of room, ever
        self.beyond_bounds = 0  # transactions and dialogs more than one call may have, ever
        self._capacity = capacity
        self._counts: dict[Hashable, int] = {}
        self._calls: dict[int, Call] = {}
        settle_ticks = _ticks(SETTLE_SECONDS)
        self._setup_ticks = _ticks(setup_seconds)
        self._max_ticks = _ticks(max_seconds)
        self._lasts = {
            State.SETUP: self._setup_ticks,
            State.CHALLENGED: settle_ticks,
            State.CANCELLED: settle_ticks,
            State.ANSWERED: self._max_ticks,
        }
        self._clock = Ticks(TICK_SECONDS, longest=max(self._lasts.values()))  # which ends every call
        # Keys of calls by the tick at which to look at them, and those ticks as a heap. Each call is in it at its
        # tick `due`. Keys of calls that ended or moved stay, at eight bytes each, until their tick comes.
        self._wheel: dict[int, array[int]] = {}
        self._heap: list[int] = []
        self._place_openings()

    def count(self, key: Hashable) -> int:
        """Calls in progress under `key`, as of the latest time that this table was told."""
        return self._counts.get(key, 0)

    def counts(self) -> dict[Hashable, int]:
        """A copy of every count; zeros are not kept."""
        return dict(self._counts)

    def open(
        self, call_id: bytes, from_tag: bytes, keys: tuple[Hashable, ...], now: float, branch: bytes = ANY_BRANCH
    ) -> None:
        """Count an admitted INVITE under every key until its call is over.

        `branch` is that of its topmost Via. With it, a final response to this INVITE is told from one to a fork
        or to another INVITE of the same call; without it, the first one ends the call.
        """
        clock = self._clock
        if not clock.start <= now < clock.end:
            self._tick(now)
        key = identify(call_id, from_tag)
        call = self._calls.get(key)
        if call is not None:
            self._open_again(call, keys, branch)
        else:
            call = Call()  # no __init__: it would cost as much as the rest of this
            call.key = key
            call.keys = keys
            call.reservations = 1
            call.opened = clock.count
            call.deadline = call.due = self._opening_due
            call.answered = False
            call.state = SETUP
            call.pending = (branch,)
            call.done = ()
            call.dialogs = NO_DIALOGS
            call.talking = 0
            self._calls[key] = call
            self._opening_keys.append(key)
        counts = self._counts
        for name in keys:
            try:
                counts[name] += 1
            except KeyError:
                counts[name] = 1
        self.in_progress += 1
        if self.in_progress > self._capacity:
            self._forget_earliest()

    def observe(self, message: Scan, now: float) -> None:
        """Take in any message but the admitted INVITE itself; one of no known call changes nothing."""
        read = meaning(message)
        if read is None:
            return
        clock = self._clock
        if not clock.start <= now < clock.end:
            self._tick(now)
        from_tag, to_tag = message.from_tag, message.to_tag
        call = self._calls.get(identify(message.call_id, from_tag))
        if call is not None:
            event = read(call, message, to_tag, True)
        else:  # the called side speaks: To and From swap (RFC 3261 12.2)
            call = self._calls.get(identify(message.call_id, to_tag))
            if call is None:
                return
            event = read(call, message, from_tag, False)
        if event is not None:
            self._move(call, event)

    def knows(self, call_id: bytes, from_tag: bytes) -> bool:
        """Whether a call of this caller's tag is in progress."""
        return identify(call_id, from_tag) in self._calls

    def note_answer(self, call_id: bytes, from_tag: bytes, to_tag: bytes, now: float) -> bool:
        """The call was answered, says who follows it himself; False if it is not in progress here."""
        return self._told(call_id, from_tag, now, lambda call: call.told_answered(to_tag))

    def note_end(self, call_id: bytes, from_tag: bytes, now: float, status: int = 0) -> bool:
        """The call is over with all its dialogs, or challenged if the final response to its INVITE was 401 or 407."""
        return self._told(call_id, from_tag, now, lambda call: call.told_over(status))

    def _told(self, call_id: bytes, from_tag: bytes, now: float, read: Callable[[Call], Event | None]) -> bool:
        self._tick(now)
        call = self._calls.get(identify(call_id, from_tag))
        if call is None:
            return False
        event = read(call)
        if event is not None:
            self._move(call, event)
        return True

    def sweep(self, now: float) -> int:
        """End the calls whose time is up, and say how many. Traffic does it too; for when there is none."""
        before = self.expired
        self._tick(now)
        return self.expired - before

    def running(self) -> list[Call]:
        """The calls in progress, as of the latest time that this table was told."""
        return list(self._calls.values())

    def moment(self, now: float) -> tuple[int, float]:
        """What time it is in ticks, by which calls are timed, and how many seconds ago that one began."""
        self._tick(now)
        return self._clock.count, self._clock.phase(now)

    def resume(self, now: float, since: float) -> int:
        """Take up the ticks of a table before this one, in which one began `since` seconds ago: how many have since."""
        passed = self._clock.resume(now, since)
        self._tick(now)
        return passed

    def adopt(self, call: Call, left: int, ago: int) -> bool:
        """Go on with a call of a process before this one: its deadline is `left` ticks away, it was opened `ago` ticks
        before. Its `deadline`, `due` and `opened` are set here. False if it is there already, or there is no room."""
        if call.key in self._calls or self.in_progress + call.reservations > self._capacity:
            return False
        call.opened = self._clock.count - ago
        call.deadline = self._clock.count + min(max(left, 1), self._lasts[call.state])
        self._look_again(call)
        self._calls[call.key] = call
        for name in call.keys:
            self._counts[name] = self._counts.get(name, 0) + 1
        self.in_progress += call.reservations
        return True

    def _open_again(self, call: Call, keys: tuple[Hashable, ...], branch: bytes) -> None:
        """One more admitted INVITE with the identifiers of a call that is not over."""
        if not isinstance(call.keys, list):
            call.keys = list(call.keys)
        call.keys.extend(keys)
        call.reservations += 1
        event = call.pend(branch)
        if event is not None:
            self._move(call, event)

    def _move(self, call: Call, event: Event) -> None:
        """Take the call to its next state, and set the deadline of that state."""
        state = TRANSITIONS[call.state, event]
        self.beyond_bounds += event is Event.BEYOND_BOUNDS
        if event is Event.ANSWER and not call.answered:
            call.answered = True
            self.answered += 1
        if state is State.ENDED:
            self._end(call)
            return
        now = self._clock.count
        if state is not call.state:
            call.state = state
            call.deadline = now + self._lasts[state]
            if call.deadline < call.due:
                self._look_again(call)
        elif state is SETUP and now - call.opened < self._max_ticks:
            # RFC 3261 16.7 step 2: a provisional response restarts Timer C; so does one more INVITE.
            call.deadline = now + self._setup_ticks

    def _look_again(self, call: Call) -> None:
        """Look at the call at its deadline."""
        call.due = call.deadline
        self._place(call.due).append(call.key)

    def _place(self, tick: int) -> "array[int]":
        """The keys to look at in `tick`."""
        keys = self._wheel.get(tick)
        if keys is None:
            keys = self._wheel[tick] = array("Q")
            heappush(self._heap, tick)
        return keys

    def _place_openings(self) -> None:
        """Have the place ready where calls go that are opened in this tick."""
        self._opening_due = self._clock.count + self._setup_ticks
        self._opening_keys = self._place(self._opening_due)

    def _end(self, call: Call) -> None:
        """Give back what the call reserved; once, as a call that ended is found by nobody."""
        del self._calls[call.key]
        call.state = State.ENDED
        self.in_progress -= call.reservations
        counts = self._counts
        for name in call.keys:
            left = counts[name] - 1
            if left:
                counts[name] = left
            else:
                del counts[name]

    def _tick(self, now: float) -> None:
        """Take in the time; when a tick begins, end the calls whose deadline it is."""
        if not self._clock.advance(now):
            return
        tick = self._clock.count
        while self._heap and self._heap[0] <= tick:
            due = heappop(self._heap)
            for key in self._wheel.pop(due):
                call = self._calls.get(key)
                if call is None or call.due != due:
                    continue
                if call.deadline <= tick:
                    self.expired += 1
                    self._end(call)
                else:
                    self._look_again(call)
        self._place_openings()

    def _forget_earliest(self) -> None:
        """Make room: forget the call with the earliest deadline."""
        moved = 0
        while True:
            due = self._heap[0]
            keys = self._wheel[due]
            while keys:
                call = self._calls.get(keys.pop(0))
                if call is None or call.due != due:
                    continue
                if call.deadline > due and moved < MOVES_AT_ONCE:
                    self._look_again(call)
                    moved += 1
                    continue
                self.overflows += 1
                self._end(call)
                self._place_openings()  # which may have been emptied, and removed
                return
            del self._wheel[heappop(self._heap)]


def _ticks(seconds: float) -> int:
    """How many ticks last at least so long: one more than it takes, as the tick it begins in is not whole."""
    return ceil(seconds / TICK_SECONDS) + 1
