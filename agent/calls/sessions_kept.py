"""Calls in progress as bytes, in pieces, and back: what `agent.calls.sessions` goes on with after a restart.

Knows the fields of a call and ticks; must not know files, nor what the keys of a count mean. A piece is whole by
itself: head, names of keys (JSON), fixed fields of each call, then what varies in length, column by column.

    head    bytes of names, calls, keys, texts; seconds since the tick that times count from
    call    key, reservations, ticks since it was opened, ticks until its deadline, state, whether it was ever answered,
            INVITEs that wait, INVITEs that are done, dialogs, which of these are open (a bit each), keys
    texts   the branches of the former and of the latter, then the tags of the dialogs; lengths first
"""

import json
import struct
from array import array
from collections.abc import Hashable, Iterator, Sequence
from math import ceil, isfinite
from typing import TYPE_CHECKING, Final

from agent.calls.call import DIALOGS, NO_DIALOGS, TRANSACTIONS, Call, State
from agent.calls.sessions import TICK_SECONDS, SessionTable

if TYPE_CHECKING:
    from typing_extensions import Buffer

AT_ONCE: Final = 512
"""Calls in one piece: a millisecond of work, between two of which others have their turn."""

TEXT_MAX: Final = 65_535
"""Bytes of a branch or tag. A message has no longer ones."""

TICKS_MAX: Final = (1 << 31) - 1

_HEAD: Final = struct.Struct("<IIIId")
_CALL: Final = struct.Struct("<QIiiBBBBBHI")
_STATES: Final = tuple(State)
ENDED: Final = State.ENDED
_NUMBERS: Final = {state: number for number, state in enumerate(_STATES)}


def begin(table: SessionTable) -> Iterator[list[Call]]:
    """The calls in progress, as lists for `piece`."""
    calls = table.running()
    return (calls[at : at + AT_ONCE] for at in range(0, len(calls), AT_ONCE))


def piece(table: SessionTable, calls: Sequence[Call], now: float) -> bytes:
    """These calls as they are now, but for those that have ended since."""
    tick, phase = table.moment(now)
    names: dict[Hashable, int] = {}
    keys, lengths = array("I"), array("H")
    fixed: list[bytes] = []
    texts: list[bytes] = []
    for call in calls:
        mine = (*call.pending, *call.done, *call.dialogs)
        if call.state is ENDED or any(len(text) > TEXT_MAX for text in mine):
            continue
        is_open = sum(talks << bit for bit, talks in enumerate(call.dialogs.values()))
        fixed.append(
            _CALL.pack(
                call.key,
                call.reservations,
                min(tick - call.opened, TICKS_MAX),
                call.deadline - tick,
                _NUMBERS[call.state],
                call.answered,
                len(call.pending),
                len(call.done),
                len(call.dialogs),
                is_open,
                len(call.keys),
            )
        )
        keys.extend([names.setdefault(key, len(names)) for key in call.keys])
        lengths.extend(map(len, mine))
        texts.extend(mine)
    known = json.dumps(list(names)).encode()
    head = _HEAD.pack(len(known), len(fixed), len(keys), len(lengths), phase)
    return b"".join((head, known, *fixed, keys.tobytes(), lengths.tobytes(), *texts))


def take_back(table: SessionTable, data: "Buffer", now: float, elapsed: float, longest: float) -> int:
    """Go on with the calls of a piece that was made `elapsed` seconds ago; how many.

    None lasts longer than another `longest` seconds. Raises ValueError for what `piece` did not make.
    """
    view = memoryview(data)
    try:
        return _take_back(table, view, now, elapsed, longest)
    except (struct.error, KeyError, IndexError, TypeError, RecursionError) as error:
        raise ValueError(f"no calls in progress: {error}") from error


def _take_back(table: SessionTable, view: memoryview, now: float, elapsed: float, longest: float) -> int:
    known, count, key_count, text_count, phase = _HEAD.unpack_from(view)
    at = _HEAD.size
    names = [tuple(name) for name in json.loads(bytes(view[at : at + known]))]
    at += known
    fixed = view[at : at + count * _CALL.size]
    at += len(fixed)
    keys, at = _column("I", key_count, view, at)
    lengths, at = _column("H", text_count, view, at)
    passed = table.resume(now, elapsed + phase)
    most = ceil(longest / TICK_SECONDS) if isfinite(longest) else TICKS_MAX
    blob, at = bytes(view[at:]), 0
    next_key = next_text = taken = 0
    for each in _CALL.iter_unpack(fixed):
        key, reservations, ago, left, state, answered, pending, done, dialogs, is_open, held = each
        texts = []
        for length in lengths[next_text : next_text + pending + done + dialogs]:
            texts.append(blob[at : at + length])
            at += length
        next_text += len(texts)
        call = Call()
        call.key, call.reservations, call.state, call.answered = key, reservations, _STATES[state], answered != 0
        call.keys = tuple([names[number] for number in keys[next_key : next_key + held]])
        next_key += held
        call.pending, call.done = tuple(texts[:pending]), tuple(texts[pending : pending + done])
        tags = texts[pending + done :]
        call.dialogs = {tag: is_open >> n & 1 == 1 for n, tag in enumerate(tags)} if tags else NO_DIALOGS
        call.talking = sum(call.dialogs.values())
        if len(call.keys) != held or not reservations or call.state is ENDED or at > len(blob):
            raise ValueError("a call that is cut off")
        if pending > TRANSACTIONS or done > TRANSACTIONS or dialogs > DIALOGS:
            raise ValueError("more than one call may have")
        if left > passed:
            taken += table.adopt(call, min(left - passed, most), ago + passed)
    return taken


def _column(kind: str, count: int, view: memoryview, at: int) -> "tuple[array[int], int]":
    column = array(kind)
    end = at + count * column.itemsize
    if end > len(view):
        raise ValueError("cut off")
    column.frombytes(view[at:end])
    return column, end
