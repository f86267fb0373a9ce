"""Builds do-not-originate lists: many assertions about many numbers become one assertion for each number.

Where a number is asserted more than once, the assertion that holds longest wins (for good beats any date), then
the lower category, then the later verification. Checks what the law lets each category hold; reads no files.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, compress, pairwise
from operator import ne
from typing import Final, NamedTuple

from agent.model import ConfigError
from agent.numbers.areas import area_of, is_foreign_to_nanpa
from agent.numbers.dno import Assertion, DnoCategory, DnoSections
from agent.numbers.index import BITMAP_BYTES, BLOCK, BLOCKS
from agent.numbers.packing import pack, set_blocks, view
from agent.numbers.plan import VALID_NPA, VALID_NXX, is_fictitious
from agent.numbers.ranges import NANP_FIRST, Piece

# Assertions are named by a u16 beside every number; one value is kept for "none".
MAX_ASSERTIONS: Final = 65_535
# How many steps `DnoBuilder.finish` tells of.
STEPS: Final = 3
_NONE: Final = 0xFFFF
_ID_BITS: Final = 16


class Contents(NamedTuple):
    """What a list holds, ready to be written."""

    sections: DnoSections
    assertions: tuple[Assertion, ...]

    def counts(self) -> dict[str, int]:
        """How many numbers in all and by category, and how they are kept: blocks, single (exact) and foreign numbers.

        A single number inside a listed block counts with its own assertion and with the block's.
        """
        sections = self.sections
        by_id: Counter[int] = Counter(sections.exact_ids)
        by_id.update(sections.other_ids)
        blocks = 0
        for first, stop, run_id in zip(sections.run_starts, sections.run_stops, sections.run_ids, strict=True):
            by_id[run_id] += (stop - first) * BLOCK
            blocks += stop - first
        by_category: Counter[DnoCategory] = Counter()
        for assertion_id, count in by_id.items():
            by_category[self.assertions[assertion_id].category] += count
        return {
            "numbers": by_id.total(),
            **{category.slug: by_category[category] for category in DnoCategory},
            "blocks": blocks,
            "exact": len(sections.suffixes),
            "others": len(sections.others),
        }


def precedence(assertion: Assertion) -> tuple[float, int, float, str, str]:
    """Sorts the assertion that wins before the one that loses."""
    expires = float("inf") if assertion.expires_at is None else assertion.expires_at
    verified = float("-inf") if assertion.verified_at is None else assertion.verified_at
    return (-expires, assertion.category, -verified, assertion.source, assertion.asserted_by)


def refusal(piece: Piece, category: DnoCategory) -> str:
    """Why a category may not hold these numbers; "" when it may."""
    if category is DnoCategory.SUBSCRIBER_REQUEST:
        return ""
    if not piece.is_nanp:
        return f"numbers outside +1 are listed by subscriber request only, not as {category.label}"
    first, last = piece.first - NANP_FIRST, piece.last - NANP_FIRST
    if category is DnoCategory.INVALID:
        return _valid_part(first, last)
    if category is DnoCategory.UNALLOCATED:
        return _foreign_part(first, last)
    return ""


def _valid_part(first: int, last: int) -> str:
    """Numbers among `first` to `last` that the plan allows, in words; "" when it allows none of them."""
    if is_fictitious(first) and is_fictitious(last) and first // 10_000 == last // 10_000:
        return ""  # 555-01XX: allowed by its form, but nobody can have it
    for group in range(first // 10_000, last // 10_000 + 1):
        if VALID_NPA[group // 1000] and VALID_NXX[group % 1000]:
            return f"the numbering plan allows {group // 1000}-{group % 1000:03d}: not invalid"
    return ""


def _foreign_part(first: int, last: int) -> str:
    """An area code among `first` to `last` whose numbers NANPA does not allocate, in words; "" when there is none."""
    for npa in range(first // 10_000_000, last // 10_000_000 + 1):
        if is_foreign_to_nanpa(npa):
            return f"area code {npa} belongs to {area_of(npa).name}: no list of NANPA's says what is unallocated there"
    return ""


class DnoBuilder:
    """Takes entries in any order, then makes the contents of a list of them."""

    def __init__(self) -> None:
        self._ids: dict[Assertion, int] = {}
        self._singles = array("Q")  # national number << 16 | id
        self._blocks: list[tuple[int, int, int]] = []  # first, stop, id
        self._others: list[tuple[int, int]] = []  # E.164, id

    def assertion_id(self, assertion: Assertion) -> int:
        """The id of an assertion. Raises ConfigError when there are more than a list can name."""
        known = self._ids.get(assertion)
        if known is None:
            if len(self._ids) == MAX_ASSERTIONS:
                raise ConfigError("", f"more than {MAX_ASSERTIONS:,} different assertions: give dates instead of times")
            known = self._ids[assertion] = len(self._ids)
        return known

    def add_number(self, national: int, assertion_id: int) -> None:
        """One +1 number, the fast way: not checked."""
        self._singles.append(national << _ID_BITS | assertion_id)

    def add(self, piece: Piece, assertion_id: int) -> None:
        """All numbers of a piece: not checked, see `refusal`."""
        if not piece.is_nanp:
            self._others.extend((e164, assertion_id) for e164 in range(piece.first, piece.last + 1))
            return
        first, stop = piece.first - NANP_FIRST, piece.last - NANP_FIRST + 1
        first_block, stop_block = -(-first // BLOCK), stop // BLOCK
        if first_block >= stop_block:
            self._add_singles(first, stop, assertion_id)
            return
        self._blocks.append((first_block, stop_block, assertion_id))
        self._add_singles(first, first_block * BLOCK, assertion_id)
        self._add_singles(stop_block * BLOCK, stop, assertion_id)

    def _add_singles(self, first: int, stop: int, assertion_id: int) -> None:
        self._singles.extend(national << _ID_BITS | assertion_id for national in range(first, stop))

    def finish(self, moved: Callable[[float], None] = lambda _step: None) -> Contents:
        """One assertion for each number. The builder keeps what it has.

        `moved` is told how many of its STEPS are done; for millions of numbers each takes seconds.
        """
        ordered = sorted(self._ids, key=precedence)
        ranks = [0] * len(ordered)  # by id; the lower rank wins
        for rank, assertion in enumerate(ordered):
            ranks[self._ids[assertion]] = rank
        runs, owners = _paint([(first, stop, ranks[i]) for first, stop, i in self._blocks])
        moved(1)
        nationals, exact_ranks = _settle_singles(self._singles, ranks, owners)
        moved(2)
        others, other_ranks = _settle_others((e164, ranks[i]) for e164, i in self._others)
        run_ranks = [rank for _, _, rank in runs]
        used = sorted({*exact_ranks, *other_ranks, *run_ranks})
        new_id = {rank: position for position, rank in enumerate(used)}
        bitmap = bytearray(BITMAP_BYTES if runs else 0)
        for first, stop, _ in runs:
            set_blocks(bitmap, first, stop)
        packed = pack(nationals)
        moved(STEPS)
        sections = DnoSections(
            bitmap=view(bitmap),
            offsets=view(packed.offsets),
            suffixes=view(packed.suffixes),
            exact_ids=_ids(exact_ranks, new_id),
            run_starts=view(array("I", [first for first, _, _ in runs])),
            run_stops=view(array("I", [stop for _, stop, _ in runs])),
            run_ids=_ids(run_ranks, new_id),
            others=view(array("Q", others)),
            other_ids=_ids(other_ranks, new_id),
        )
        return Contents(sections, tuple(ordered[rank] for rank in used))


def _ids(ranks: Sequence[int], new_id: dict[int, int]) -> memoryview:
    return view(array("H", map(new_id.__getitem__, ranks)))


def _paint(blocks: list[tuple[int, int, int]]) -> tuple[list[tuple[int, int, int]], "array[int]"]:
    """Overlapping (first, stop, rank) as runs of one rank each, and the rank of every block (_NONE for none)."""
    if not blocks:
        return [], array("H")
    owners = array("H", [_NONE]) * BLOCKS
    for first, stop, rank in sorted(blocks, key=lambda block: -block[2]):  # the winner last, over all others
        owners[first:stop] = array("H", [rank]) * (stop - first)
    runs: list[tuple[int, int, int]] = []
    bounds = sorted({bound for first, stop, _ in blocks for bound in (first, stop)})
    for first, stop in pairwise(bounds):
        rank = owners[first]
        if rank == _NONE:
            continue
        if runs and runs[-1][1] == first and runs[-1][2] == rank:
            runs[-1] = (runs[-1][0], stop, rank)
        else:
            runs.append((first, stop, rank))
    return runs, owners


def _settle_singles(singles: "array[int]", ranks: list[int], owners: "array[int]") -> tuple[list[int], "array[int]"]:
    """Ascending numbers with the winning rank of each; without those that lie in a block whose rank wins."""
    if ranks == sorted(ranks):
        keys = sorted(singles)
    else:
        keys = sorted(key >> _ID_BITS << _ID_BITS | ranks[key & _NONE] for key in singles)
    if owners:
        keys = [key for key in keys if owners[(key >> _ID_BITS) // BLOCK] > key & _NONE]
    nationals = [key >> _ID_BITS for key in keys]
    # The lowest rank of a number comes first among its keys: keep that one.
    first = bytes(map(ne, nationals, chain((-1,), nationals)))
    exact_ranks = array("H", [key & _NONE for key in compress(keys, first)])
    return list(compress(nationals, first)), exact_ranks


def _settle_others(pairs: Iterable[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Ascending E.164 integers with the winning rank of each."""
    best: dict[int, int] = {}
    for e164, rank in pairs:
        best[e164] = min(rank, best.get(e164, _NONE))
    return sorted(best), [best[e164] for e164 in sorted(best)]
