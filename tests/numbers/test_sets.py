"""NumberSet against Python's own sets, for membership, union, difference and every way of building."""

from itertools import chain, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model import Number, NumberKind
from agent.numbers.index import BITMAP_BYTES, NumberIndexPy
from agent.numbers.packing import block_runs, count_bits, set_blocks
from agent.numbers.ranges import NANP_FIRST, Piece, nanp_range, parse_numbers
from agent.numbers.reading import read_number
from agent.numbers.sets import Counts, NumberSet

# Numbers of a few neighbouring blocks, so that pieces meet, overlap and complete each other.
BASE = 2015550000
NEAR = st.integers(BASE, BASE + 4999)
PIECES = st.one_of(
    st.tuples(NEAR, st.integers(0, 30)).map(lambda t: nanp_range(t[0], t[0] + t[1])),
    st.tuples(NEAR, st.integers(900, 2100)).map(lambda t: nanp_range(t[0], t[0] + t[1])),
    st.integers(BASE // 1000, BASE // 1000 + 5).map(lambda block: nanp_range(block * 1000, block * 1000 + 999)),
    st.tuples(st.integers(442079460000, 442079460020), st.integers(0, 5)).map(lambda t: Piece(t[0], t[0] + t[1])),
    st.sampled_from([nanp_range(0, 0), nanp_range(10**10 - 1, 10**10 - 1), nanp_range(9999999000, 9999999999)]),
)
SETS = st.lists(PIECES, max_size=8)
PROPERTY = settings(max_examples=60)


def model(pieces: list[Piece]) -> set[int]:
    return set(chain.from_iterable(range(piece.first, piece.last + 1) for piece in pieces))


def check(numbers: NumberSet, expected: set[int]) -> None:
    assert set(chain.from_iterable(range(p.first, p.last + 1) for p in numbers.pieces())) == expected
    assert len(numbers) == len(expected)
    assert bool(numbers) == bool(expected)
    for e164 in chain(range(NANP_FIRST + BASE - 2, NANP_FIRST + BASE + 7200), range(442079459990, 442079460040)):
        assert numbers.contains_e164(str(e164)) == (e164 in expected)
    for national in (0, 1, 9999999000, 10**10 - 1, 10**10, -1):
        assert numbers.contains(national) == (0 <= national < 10**10 and NANP_FIRST + national in expected)


@given(SETS)
@PROPERTY
def test_set_of_pieces_holds_exactly_their_numbers(pieces: list[Piece]) -> None:
    check(NumberSet.build(pieces), model(pieces))


@given(SETS, SETS)
@PROPERTY
def test_union_and_difference_are_those_of_sets(one: list[Piece], another: list[Piece]) -> None:
    a, b = NumberSet.build(one), NumberSet.build(another)
    check(a | b, model(one) | model(another))
    check(a - b, model(one) - model(another))


@given(SETS)
@PROPERTY
def test_equal_sets_have_equal_bytes_however_they_were_built(pieces: list[Piece]) -> None:
    built = NumberSet.build(pieces)
    assert NumberSet.build(built.pieces()) == built
    assert NumberSet.build(nanp for nanp in reversed([*pieces, *pieces])) == built
    singly = NumberSet.build(Piece(n, n) for n in model(pieces))
    assert singly == built
    assert singly.sections == built.sections
    assert built | built == built
    assert built - built == NumberSet()
    assert not built - built


def test_sets_that_differ_are_not_equal() -> None:
    one = NumberSet.build([nanp_range(BASE, BASE)])
    assert one != NumberSet.build([nanp_range(BASE, BASE + 1)])
    assert one != NumberSet.build([nanp_range(BASE + 1, BASE + 1)])
    assert one != NumberSet.build([nanp_range(BASE, BASE), Piece(442079460123, 442079460123)])
    assert one != {BASE}


def test_set_has_no_hash() -> None:
    with pytest.raises(TypeError):
        hash(NumberSet())


def test_thousand_single_numbers_become_a_block() -> None:
    numbers = NumberSet.build_from_ints([*range(BASE, BASE + 1000), BASE + 5000])
    assert numbers.counts == Counts(blocks=1, exact=1, others=0)
    assert numbers == NumberSet.build([nanp_range(BASE, BASE + 999), nanp_range(BASE + 5000, BASE + 5000)])


def test_number_taken_from_a_block_leaves_the_other_999() -> None:
    area_code = NumberSet.build([nanp_range(2010000000, 2019999999)])
    rest = area_code - NumberSet.build_from_ints([2015550123])
    assert rest.counts == Counts(blocks=9999, exact=999, others=0)
    assert rest | NumberSet.build_from_ints([2015550123]) == area_code


def test_numbers_and_blocks_as_integers() -> None:
    numbers = NumberSet.build_from_ints([BASE, BASE, BASE + 7], [(2015551, 2015553)])
    assert list(numbers.pieces()) == [
        nanp_range(2015551000, 2015552999),
        nanp_range(BASE, BASE),
        nanp_range(BASE + 7, BASE + 7),
    ]
    assert list(numbers.exact()) == [BASE, BASE + 7]
    assert repr(numbers) == "NumberSet(2 blocks, 2 numbers, 0 others)"


@pytest.mark.parametrize("bad", [-1, 10**10])
def test_integer_that_is_no_national_number_is_refused(bad: int) -> None:
    with pytest.raises(ValueError, match="ten digits"):
        NumberSet.build_from_ints([BASE, bad])


@pytest.mark.parametrize("bad", [(-1, 5), (5, 4), (0, 10**7 + 1)])
def test_range_that_is_no_range_of_blocks_is_refused(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no range of blocks"):
        NumberSet.build_from_ints([], [bad])


def test_all_ten_million_blocks_fit() -> None:
    numbers = NumberSet.build([nanp_range(0, 10**10 - 1)])
    assert numbers.counts == Counts(10**7, 0, 0)
    assert len(numbers) == 10**10
    assert list(numbers.pieces()) == [nanp_range(0, 10**10 - 1)]
    assert numbers.contains(0)
    assert numbers.contains(10**10 - 1)
    assert not numbers.contains(10**10)


def test_only_numbers_whose_country_is_known_are_members() -> None:
    numbers = NumberSet.build(parse_numbers(["2015550123", "+442079460123"], "x"))
    assert read_number(b"sip:2015550123@h", "1") in numbers
    assert read_number(b"sip:+442079460123@h", "1") in numbers
    assert read_number(b"sip:2015550123@h", "") not in numbers
    assert read_number(b"sip:442079460123@h", "1") not in numbers
    assert read_number(b"sip:911@h", "1") not in numbers
    assert Number(NumberKind.ANONYMOUS, "", -1) not in numbers
    assert 2015550123 not in numbers
    assert "2015550123" not in numbers


@pytest.mark.parametrize("text", ["", "+12015550123", " 12015550123", "١٢٠١٥٥٥٠١٢٣", "1" * 40, "x", "-1"])
def test_text_that_is_no_e164_digits_is_no_member(text: str) -> None:
    assert not NumberSet.build([nanp_range(0, 10**10 - 1)]).contains_e164(text)


def test_set_stands_on_memory_of_another_and_lets_it_go() -> None:
    built = NumberSet.build(parse_numbers(["201*", "2125550123", "+442079460123"], "x"))
    buffers = [bytearray(section) for section in built.sections]
    bitmap, offsets, suffixes, others = [memoryview(buffer) for buffer in buffers]
    views = (bitmap, offsets.cast("I"), suffixes.cast("H"), others.cast("Q"))
    standing = NumberSet(type(built.sections)(*views))
    assert standing == built
    standing.release()
    for section in (*views, bitmap, offsets, suffixes, others):
        section.release()
    for buffer in buffers:
        buffer.append(0)  # raises BufferError while anybody holds a view
    with pytest.raises(ValueError, match="released"):
        standing.contains(2015550123)


def test_python_index_answers_as_the_set_does() -> None:
    numbers = NumberSet.build(parse_numbers(["201*", "2125550123", "2125550125"], "x"))
    index = NumberIndexPy(*numbers.sections[:3])
    for national in (2010000000, 2019999999, 2020000000, 2125550122, 2125550123, 2125550124, 2125550125):
        assert index.contains(national) == numbers.contains(national)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)), max_size=10))
def test_bit_runs_are_the_runs_of_set_bits(ranges: list[tuple[int, int]]) -> None:
    bitmap = bytearray(BITMAP_BYTES)
    expected: set[int] = set()
    for first, size in ranges:
        set_blocks(bitmap, first, first + size)
        expected |= set(range(first, first + size))
    runs = list(block_runs(bitmap))
    assert set(chain.from_iterable(range(*run) for run in runs)) == expected
    assert all(stop < start for (_, stop), (start, _) in pairwise(runs))
    assert count_bits(bitmap) == len(expected)
