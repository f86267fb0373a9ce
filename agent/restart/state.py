"""What screening counts as sections of a snapshot, and back. Performs no I/O; time is an argument.

What comes back, and what becomes of it:

- rates: the cells of each limit that has the same name and scope now, as when a policy is swapped: when the next
  attempt is due means the same under another rate. They age, so that exactly as much is admitted as if nothing had
  happened.
- attempts: for as long as copies may come, with their verdicts: a copy is answered as the first one was, and not
  counted.
- calls in progress, with all their identifiers, unless the snapshot is older than CALLS_SECONDS or of another boot:
  then the SBC, too, may have lost them, and calls that nobody will end would be counted for hours.
- infractions and suspensions of customers.

Not kept: answers that wait for an ACK (a copy of the INVITE gets the same bytes without them, RFC 3261 8.2.7), shares
of the fleet's limits (the controller leases them anew), what a capture only looks at.
"""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final, cast

from agent.calls import sessions_kept
from agent.restart.snapshot import ATTEMPTS, CALLS, CUSTOMERS, RATES, Clocks, Head, Section
from agent.restart.verdicts import read_verdicts, write_verdicts
from agent.screening import Screening

CALLS_SECONDS: Final = 120.0
"""Calls end while nobody listens. After as long as many calls last, more of them would be wrong than right."""

UNHEARD_SECONDS: Final = 3600.0
"""For how long calls are counted on that a killed process left: which of them ended between its last snapshot and the
kill nobody knows. Longer than nearly all calls; without it, those that ended would hold their places for four hours."""

RATES_SECONDS: Final = 8 * 86_400.0
"""Beyond the longest window that anybody would set, a week, nothing of a rate matters."""

ATTEMPTS_AT_ONCE: Final = 16_384
"""In one section: a millisecond or two of the event loop."""

_PHASE: Final = struct.Struct("<d")
_LENGTH: Final = struct.Struct("<I")


@dataclass(slots=True)
class Restored:
    """What was taken over. `left` are sections that were not: too old, of a limit that is gone, or no time."""

    cells: int = 0
    attempts: int = 0
    calls: int = 0
    left: int = 0
    seconds: float = 0.0  # between the last section and now


Taking = Callable[[], Section]
"""Makes a section from what was read; costly, and fit for another thread."""


def taking(screening: Screening, clock: Callable[[], float]) -> Iterator[Taking]:
    """Reads the tables, a part at each step and never for long; what it yields does the rest.

    Between two steps calls may be decided: each section has its own time.
    """
    counted = screening.counted
    for (limit, scope), table in counted.rated().items():
        now = clock()
        yield _given(Section(RATES, json.dumps([limit, scope]).encode(), table.export(now), now))
    parts = 1 + len(screening.attempts) // ATTEMPTS_AT_ONCE
    for part in range(parts):
        now = clock()
        yield partial(_attempts, *screening.attempts.export(now, part, parts), now)
    for calls in sessions_kept.begin(screening.sessions):
        now = clock()
        yield _given(Section(CALLS, b"", sessions_kept.piece(screening.sessions, calls, now), now))
    now = clock()
    yield _given(Section(CUSTOMERS, b"", json.dumps(counted.infractions.export(now)).encode(), now))


def _given(section: Section) -> Taking:
    return lambda: section


def _attempts(records: bytes, decisions: Sequence[object], phase: float, now: float) -> Section:
    verdicts, places = write_verdicts(decisions)
    column = struct.pack(f"<{len(places)}I", *places)
    parts = (_PHASE.pack(phase), _LENGTH.pack(len(verdicts)), verdicts, _LENGTH.pack(len(places)), column, records)
    data = b"".join(parts)
    return Section(ATTEMPTS, b"", data, now)


def restore(
    screening: Screening,
    head: Head,
    sections: Sequence[Section],
    now: Clocks,
    in_time: Callable[[], bool] = lambda: True,
) -> Restored:
    """Go on with what the sections hold, in a screening that has not decided anything yet.

    Stops when it is no longer `in_time`. Raises ValueError for a section that was not made by `taking`.
    """
    found = Restored()
    found.seconds = min((head.elapsed(one.taken, now) for one in sections), default=0.0)
    for one in sections:
        elapsed = head.elapsed(one.taken, now)
        if not in_time() or elapsed < 0.0 or not _restore(screening, head, one, now, elapsed, found):
            found.left += 1
    return found


def _restore(screening: Screening, head: Head, one: Section, now: Clocks, elapsed: float, found: Restored) -> bool:
    """Whether it was taken over."""
    match one.kind:
        case b"RATE":
            table = screening.counted.rated().get(_limit(one.name))
            if table is None or elapsed > RATES_SECONDS:
                return False
            found.cells += table.restore(one.data, now.monotonic, elapsed)
        case b"TRYS":
            found.attempts += _restore_attempts(screening, one, now.monotonic, elapsed)
        case b"CALL":
            if elapsed > CALLS_SECONDS or now.boot != head.boot:
                return False
            longest = inf if head.clean else UNHEARD_SECONDS
            found.calls += sessions_kept.take_back(screening.sessions, one.data, now.monotonic, elapsed, longest)
        case b"CUST":
            screening.counted.infractions.restore(_customers(one.data), now.monotonic, elapsed)
        case _:
            return False
    return True


def _restore_attempts(screening: Screening, one: Section, now: float, elapsed: float) -> int:
    view = memoryview(one.data)
    try:
        (phase,), (length,) = _PHASE.unpack_from(view), _LENGTH.unpack_from(view, _PHASE.size)
        at = _PHASE.size + _LENGTH.size
        different = read_verdicts(bytes(view[at : at + length]), screening.policy)
        at += length
        (count,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        places = struct.unpack_from(f"<{count}I", view, at)
        decisions: list[object] = [different[place - 1] if place else None for place in places]
    except (struct.error, IndexError) as error:
        raise ValueError(f"no attempts: {error}") from error
    return screening.attempts.restore(view[at + count * _LENGTH.size :], decisions, now, elapsed + phase)


def _limit(name: bytes) -> tuple[str, str]:
    try:
        limit, scope = json.loads(name)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no name of a limit: {error}") from error
    return str(limit), str(scope)


def _customers(data: object) -> dict[str, tuple[list[float], float]]:
    kept = json.loads(bytes(cast("bytes", data)))
    try:
        return {str(one): ([float(age) for age in ages], float(left)) for one, (ages, left) in kept.items()}
    except (TypeError, AttributeError) as error:
        raise ValueError(f"no infractions: {error}") from error
