"""The do-not-originate list: numbers that never originate calls, and on whose word (47 CFR 64.1200(o)).

A list may hold four kinds of numbers, and each entry says which, where it comes from, who asserts it, when that
was verified and until when it holds. Numbers with a bad reputation are no kind of their own: they belong to
analytics, which is another rule with another answer. Foreign numbers come in by their subscriber's request alone.

Knows how to look a number up, at a time that the caller gives. Lists are made by agent.numbers.dno_build, and
written and read by agent.numbers.listfile.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from agent.model import Number, NumberKind
from agent.numbers.index import ABSENT, BLOCK, NumberIndex, number_index
from agent.numbers.packing import unpack
from agent.numbers.ranges import NANP_FIRST, NANP_LAST, Piece, nanp_range
from agent.numbers.sets import Collector, NumberSet

KIND: Final = "dno-list"

_PIECE: Final = 1 << 15


class DnoCategory(IntEnum):
    """The four kinds of numbers that a list may hold, numbered as the rule lists them."""

    SUBSCRIBER_REQUEST = 1  # inbound-only, and its subscriber asked for the blocking
    INVALID = 2  # not a number of the numbering plan
    UNALLOCATED = 3  # valid, but allocated to no provider
    UNUSED = 4  # allocated, but the allocatee says that nobody has it: holds for days, not for good

    @property
    def label(self) -> str:
        """In words: "subscriber request"."""
        return self.name.lower().replace("_", " ")

    @property
    def slug(self) -> str:
        """As in files: "subscriber-request"."""
        return self.name.lower().replace("_", "-")


class Assertion(NamedTuple):
    """Who says what of a number. Times are epoch seconds UTC; None: not stated, and for `expires_at`: for good."""

    category: DnoCategory
    source: str
    asserted_by: str
    verified_at: float | None
    expires_at: float | None

    def holds(self, when: float) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or when < self.expires_at


DnoHit = Assertion  # what a look-up finds is the assertion that holds for the number


class DnoSections(NamedTuple):
    """The arrays of a list in native byte order, with their item formats (see agent.numbers.index for the first three).

    A single number may lie inside a listed block: then it has an assertion that outlasts the block's.
    """

    bitmap: memoryview  # B
    offsets: memoryview  # I
    suffixes: memoryview  # H
    exact_ids: memoryview  # H, the assertion of each suffix
    run_starts: memoryview  # I, runs of blocks with one assertion, ascending, not overlapping
    run_stops: memoryview  # I, the block after the run's last
    run_ids: memoryview  # H
    others: memoryview  # Q, E.164 integers outside +1, ascending
    other_ids: memoryview  # H


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a list says of itself. Times are RFC 3339 text, None for never."""

    generation: int
    created_at: str
    sha256: str  # of the content: two lists with the same entries have the same one
    counts: dict[str, int]
    sources: tuple[str, ...]
    first_expiry: str | None  # from here on, some entries have expired
    not_after: str | None  # from here on, all entries have expired
    agent_version: str

    @property
    def version(self) -> str:
        """How verdicts and records name it: generation and the start of the digest."""
        return f"{self.generation}-{self.sha256[:12]}"


class DnoList:
    """An immutable list; `lookup` is the question that every call asks."""

    __slots__ = ("_index", "_locate", "_sections", "assertions", "manifest")

    def __init__(self, sections: DnoSections, assertions: tuple[Assertion, ...], manifest: Manifest) -> None:
        """Stand on arrays that somebody else holds. Raises ValueError when they do not fit each other."""
        _check(sections, len(assertions))
        self._index = number_index(sections.bitmap, sections.offsets, sections.suffixes)
        self._locate = self._index.locate
        self._sections = sections
        self.assertions = assertions
        self.manifest = manifest

    @property
    def version(self) -> str:
        """How verdicts and records name the list."""
        return self.manifest.version

    @property
    def terms(self) -> tuple[NumberIndex, bool]:
        """For the compiled hot path: the index of its numbers of +1, and whether it has others."""
        return self._index, len(self._sections.others) > 0

    def lookup(self, number: Number, when: float) -> DnoHit | None:
        """The assertion that holds for a number at `when` (epoch seconds), or None.

        Only numbers whose country is known can be on a list: no dialled code, no ambiguous number, no anonymous one.
        """
        national = number.national
        if national >= 0:
            position = self._locate(national)
            return None if position == ABSENT else self._at(position, national, when)
        return self._other(int(number.digits), when) if number.kind is NumberKind.FOREIGN else None

    def find(self, e164: int, when: float) -> DnoHit | None:
        """The same for an E.164 number as an integer."""
        if not NANP_FIRST <= e164 <= NANP_LAST:
            return self._other(e164, when)
        position = self._locate(e164 - NANP_FIRST)
        return None if position == ABSENT else self._at(position, e164 - NANP_FIRST, when)

    def _at(self, position: int, national: int, when: float) -> DnoHit | None:
        """The assertion of a number that `locate` has found at `position`."""
        if position >= 0:
            hit = self.assertions[self._sections.exact_ids[position]]
            if hit.holds(when):
                return hit
        return self._block(national // BLOCK, when)

    def _block(self, block: int, when: float) -> DnoHit | None:
        sections = self._sections
        run = bisect_right(sections.run_starts, block) - 1
        if run < 0 or block >= sections.run_stops[run]:
            return None
        hit = self.assertions[sections.run_ids[run]]
        return hit if hit.holds(when) else None

    def _other(self, e164: int, when: float) -> DnoHit | None:
        others = self._sections.others
        position = bisect_right(others, e164) - 1
        if position < 0 or others[position] != e164:
            return None
        hit = self.assertions[self._sections.other_ids[position]]
        return hit if hit.holds(when) else None

    def numbers(self) -> NumberSet:
        """All numbers of the list as a set, expired or not."""
        collector = Collector()
        for first, stop in zip(self._sections.run_starts, self._sections.run_stops, strict=True):
            collector.add_blocks(first, stop)
        collector.nationals.extend(unpack(self._sections.offsets, self._sections.suffixes))
        collector.others.extend(self._sections.others)
        return collector.finish()

    def runs(self) -> Iterator[tuple[Piece, Assertion]]:
        """The runs of whole blocks with one assertion, ascending."""
        sections = self._sections
        for first, stop, run_id in zip(sections.run_starts, sections.run_stops, sections.run_ids, strict=True):
            yield nanp_range(first * BLOCK, stop * BLOCK - 1), self.assertions[run_id]

    def singles(self) -> Iterator[tuple[Piece, Assertion]]:
        """The single numbers with their assertions: of +1, then of other countries, each ascending."""
        sections, assertions = self._sections, self.assertions
        for national, exact_id in zip(unpack(sections.offsets, sections.suffixes), sections.exact_ids, strict=True):
            yield Piece(NANP_FIRST + national, NANP_FIRST + national), assertions[exact_id]
        for e164, other_id in zip(sections.others, sections.other_ids, strict=True):
            yield Piece(e164, e164), assertions[other_id]

    def count_by_assertion(self) -> dict[Assertion, int]:
        """How many numbers stand on each assertion; a single number inside a run counts with both."""
        counts = Counter(self._sections.exact_ids)
        counts.update(self._sections.other_ids)
        sizes = {self.assertions[assertion_id]: count for assertion_id, count in counts.items()}
        for piece, assertion in self.runs():
            sizes[assertion] = sizes.get(assertion, 0) + piece.size
        return sizes

    def release(self) -> None:
        """Let go of the arrays, so that a mapped file can be closed; every later look-up raises ValueError."""
        self._index.release()
        for section in self._sections:
            section.release()


def _check(sections: DnoSections, assertions: int) -> None:
    """Raises ValueError unless every position that a look-up computes is inside its array."""
    if len(sections.exact_ids) != len(sections.suffixes):
        raise ValueError("not one assertion for each number")
    if len(sections.other_ids) != len(sections.others):
        raise ValueError("not one assertion for each foreign number")
    if not len(sections.run_starts) == len(sections.run_stops) == len(sections.run_ids):
        raise ValueError("not one assertion for each run of blocks")
    for ids in (sections.exact_ids, sections.run_ids, sections.other_ids):
        if _highest(ids) >= assertions:
            raise ValueError("an assertion is named that is not there")
    if (others := sections.others.tolist()) != sorted(others):
        raise ValueError("the foreign numbers do not ascend")
    end = 0
    for first, stop in zip(sections.run_starts, sections.run_stops, strict=True):
        if not end <= first < stop:
            raise ValueError("the runs of blocks do not ascend")
        end = stop
    if end > 8 * len(sections.bitmap):
        raise ValueError("a run of blocks ends outside the bitmap")


def _highest(ids: memoryview) -> int:
    """The highest of them, -1 for none. In pieces: `max` of millions would keep other threads waiting for 20 ms."""
    return max((max(ids[first : first + _PIECE]) for first in range(0, len(ids), _PIECE)), default=-1)
