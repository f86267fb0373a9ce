"""Whether what came in went out unaltered: Identity rows on the way to the callee, a refusal on its way back.

Pure functions on header values. 47 CFR 64.6302(b): an intermediate provider passes authenticated caller-ID on
unaltered. RFC 8224 signs the token, not the row around it, but a row that was re-folded, joined with another or given
other parameters is one that the next network may not read: only the same bytes count as kept. The header's name may be
written in its compact form. Must not know calls, trunks or time.

Rows are remembered as 64-bit hashes (SipHash under a key of this process), so that a table of calls does not hold what
a caller chose to send. That two different rows are taken for the same happens by chance once in 10^19.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from agent.sip.headers import WHITE_SPACE, split_addresses
from agent.sip.reason import read_block_notice
from agent.sip.rows import split_message

MAX_ROWS: Final = 16
"""Identity rows of one message that are compared one by one; what is beyond them is compared as one row."""

MAX_TOKENS: Final = 16
"""PASSporTs joined with commas in one row."""

BLOCKED: Final = (603, 607, 608)
"""Answers of a network or subscriber that blocks: ATIS-1000099, RFC 8197, RFC 8688. They must reach the caller."""

MAX_VALUES: Final = 8
MAX_VALUE: Final = 1024
"""Reason and Call-Info rows of one answer that are kept, and bytes of each: ours have one of 200 bytes."""


class IdentityRow(NamedTuple):
    """One Identity row by its hashes: as it is, without any white space, and its tokens (several if joined)."""

    value: int
    squeezed: int
    tokens: tuple[int, ...]


def read_identity(values: Sequence[bytes]) -> tuple[IdentityRow, ...]:
    """The rows of one message; `values` as `Scan.identity` has them, folds untouched."""
    rows = tuple(map(_row, values[:MAX_ROWS]))
    if len(values) <= MAX_ROWS:
        return rows
    rest = hash(tuple(values[MAX_ROWS:]))
    return (*rows, IdentityRow(rest, rest, ()))


def _row(value: bytes) -> IdentityRow:
    squeezed = value.translate(None, WHITE_SPACE)
    parts = split_addresses(squeezed)[:MAX_TOKENS] if b"," in squeezed else [squeezed]
    tokens = (part.partition(b";")[0] for part in parts)
    return IdentityRow(hash(value), hash(squeezed), tuple([hash(token) for token in tokens if token]))


@dataclass(frozen=True, slots=True)
class Transit:
    """What became of the Identity rows of one call. `refolded`: the white space differs; `joined`: put into one row
    with others, or taken apart; `changed`: the same token with something else around it. `reordered` is noted only:
    their order has no meaning (RFC 8224 4), and neither is `added` a fault: a provider may sign, too."""

    before: int = 0
    after: int = 0
    kept: int = 0
    refolded: int = 0
    joined: int = 0
    changed: int = 0
    stripped: int = 0
    added: int = 0
    reordered: bool = False

    @property
    def altered(self) -> int:
        """Rows that went out as something else."""
        return self.refolded + self.joined + self.changed

    @property
    def intact(self) -> bool:
        """Whether every row that came in went out, byte for byte."""
        return self.kept == self.before

    def words(self) -> str:
        """For people: "2 of 3 Identity rows kept, 1 re-folded"."""
        parts = [f"{self.kept} of {self.before} Identity row{'' if self.before == 1 else 's'} kept"]
        for number, what in (
            (self.refolded, "re-folded"),
            (self.joined, "joined or split"),
            (self.changed, "changed"),
            (self.stripped, "stripped"),
            (self.added, "added"),
        ):
            if number:
                parts.append(f"{number} {what}")
        return ", ".join(parts) + (", in another order" if self.reordered else "")


NOTHING: Final = Transit()


def compare_identity(before: Sequence[IdentityRow], after: Sequence[IdentityRow]) -> Transit:
    """What became of the rows `before` if the rows `after` were sent. Duplicates count as often as they are there."""
    if not before and not after:
        return NOTHING
    left, free = list(range(len(before))), set(range(len(after)))
    places: dict[int, int] = {}

    def take(same: str) -> int:
        """Pair the rows left with free ones that have the same hash of this kind; how many."""
        found = 0
        for number in list(left):
            wanted = getattr(before[number], same)
            place = next((p for p in sorted(free) if getattr(after[p], same) == wanted), None)
            if place is not None:
                left.remove(number)
                free.remove(place)
                places[number] = place
                found += 1
        return found

    kept, refolded = take("value"), take("squeezed")
    joined, changed, used = _by_token(before, after, left, free)
    order = [places[number] for number in sorted(places)]
    return Transit(
        before=len(before),
        after=len(after),
        kept=kept,
        refolded=refolded,
        joined=joined,
        changed=changed,
        stripped=len(left) - joined - changed,
        added=len(free - used),
        reordered=any(one > other for one, other in pairwise(order)),
    )


def _by_token(
    before: Sequence[IdentityRow], after: Sequence[IdentityRow], left: Sequence[int], free: set[int]
) -> tuple[int, int, set[int]]:
    """Of the rows left, how many are in a free row with others, how many alone in another form; and in which."""
    joined = changed = 0
    used: set[int] = set()
    for number in left:
        tokens = set(before[number].tokens)
        places = [place for place in free if tokens & set(after[place].tokens)]
        if not places:
            continue
        used.update(places)
        alone = len(places) == 1 and len(after[places[0]].tokens) == len(before[number].tokens)
        if alone:
            changed += 1
        else:
            joined += 1
    return joined, changed, used


class Answer(NamedTuple):
    """A final response, as far as a caller who was blocked needs it (bytes as sent, rows unfolded)."""

    status: int
    phrase: bytes
    reasons: tuple[bytes, ...]
    call_info: tuple[bytes, ...]

    @property
    def notice(self) -> bool:
        """Whether it is a 603+ of ATIS-1000099."""
        return read_block_notice(self.status, self.phrase, self.reasons) is not None

    def __str__(self) -> str:
        phrase = self.phrase.decode("utf-8", "backslashreplace")
        return f"{self.status} {phrase}".rstrip() + (" (603+)" if self.notice else "")


def read_answer(raw: bytes) -> Answer:
    """Of a response that `scan` could read."""
    parts = split_message(raw)
    values: dict[bytes, list[bytes]] = {b"reason": [], b"call-info": []}
    for row in parts.rows:
        kept = values.get(row.key)
        if kept is not None and len(kept) < MAX_VALUES:
            kept.append(row.value[:MAX_VALUE])
    return Answer(parts.status, parts.phrase[:MAX_VALUE], tuple(values[b"reason"]), tuple(values[b"call-info"]))


def compare_answers(came: Answer, went: Answer) -> tuple[str, ...]:
    """What a refusal lost on its way to the caller: "status", "phrase", "Reason", "Call-Info"; empty if nothing.

    Rows may be added. Call-Info counts for 608 only, whose jCard says whom to ask (RFC 8688 3.2).
    """
    lost = []
    if came.status != went.status:
        lost.append("status")
    if came.phrase != went.phrase:
        lost.append("phrase")
    if not set(came.reasons) <= set(went.reasons):
        lost.append("Reason")
    if came.status == 608 and not set(came.call_info) <= set(went.call_info):
        lost.append("Call-Info")
    return tuple(lost)
