"""What two do-not-originate lists do not have in common: numbers that came, that went, that changed their assertion."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from agent.numbers.dno import Assertion, DnoList
from agent.numbers.ranges import Piece
from agent.numbers.sets import NumberSet

Entry = tuple[Piece, Assertion]

_BEFORE_ALL: Final = float("-inf")  # a time at which no assertion has expired


class Difference(NamedTuple):
    """Numbers only in the new list, only in the old one, and in both by another assertion."""

    added: NumberSet
    removed: NumberSet
    changed: NumberSet


def compare(old: DnoList, new: DnoList) -> Difference:
    """Compare two lists, expired entries included."""
    if old.manifest.sha256 == new.manifest.sha256:
        return Difference(NumberSet(), NumberSet(), NumberSet())
    before, after = old.numbers(), new.numbers()
    changed = NumberSet.build(_overlaps(list(old.runs()), list(new.runs())))
    if changed:  # single numbers inside of these runs may have kept an assertion of their own
        changed -= NumberSet.build(piece for piece, differs in _singles_of_both(old, new) if not differs)
    singles = NumberSet.build(piece for piece, differs in _singles_of_both(old, new) if differs)
    return Difference(after - before, before - after, changed | singles)


def _singles_of_both(old: DnoList, new: DnoList) -> Iterator[tuple[Piece, bool]]:
    """The single numbers of either list that the other has too, and whether their assertions differ."""
    # A number of both lists that is a single number in the new one only lies in a run of the old one.
    pairs = [(old, new), (new, old)] if any(True for _ in old.runs()) else [(old, new)]
    for one, another in pairs:
        for piece, assertion in one.singles():
            known = another.find(piece.first, _BEFORE_ALL)
            if known is not None:
                yield piece, known != assertion


def _overlaps(old: Sequence[Entry], new: Sequence[Entry]) -> Iterator[Piece]:
    """Where ascending runs of two lists overlap and their assertions differ."""
    i = j = 0
    while i < len(old) and j < len(new):
        (one, assertion), (another, other_assertion) = old[i], new[j]
        first, last = max(one.first, another.first), min(one.last, another.last)
        if first <= last and assertion != other_assertion:
            yield Piece(first, last)
        if one.last < another.last:
            i += 1
        else:
            j += 1
