"""Do-not-originate lists: what wins where numbers are asserted twice, what holds when, and what two lists differ in."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model import ConfigError, Number, NumberKind
from agent.numbers import dno_build
from agent.numbers.dno import Assertion, DnoCategory, DnoList
from agent.numbers.dno_build import DnoBuilder, precedence, refusal
from agent.numbers.dno_compare import compare
from agent.numbers.listfile import encode, read_list
from agent.numbers.ranges import NANP_FIRST, Piece, nanp_range, parse_piece
from agent.numbers.reading import read_number
from agent.numbers.sets import NumberSet

WHEN = 1_800_000_000.0
DAY = 86_400.0
REQUEST = Assertion(DnoCategory.SUBSCRIBER_REQUEST, "registry", "IRS", WHEN - DAY, None)
UNUSED = Assertion(DnoCategory.UNUSED, "carrier", "Carrier A", WHEN - DAY, WHEN + DAY)
UNALLOCATED = Assertion(DnoCategory.UNALLOCATED, "report", "NANPA", WHEN - DAY, WHEN + 90 * DAY)

Entries = Sequence[tuple[Piece, Assertion]]


def make_list(entries: Entries, generation: int = 1) -> DnoList:
    builder = DnoBuilder()
    for piece, assertion in entries:
        builder.add(piece, builder.assertion_id(assertion))
    return read_list(memoryview(b"".join(encode(builder.finish(), generation, WHEN, "test"))), "test")


def nanp(national: int) -> Number:
    return Number(NumberKind.NANP, f"1{national:010d}", national)


def test_listed_number_is_found_with_the_assertion_that_lists_it() -> None:
    dno = make_list(
        [
            (parse_piece("2015550123"), REQUEST),
            (parse_piece("2015552*"), UNUSED),
            (parse_piece("+442079460123"), REQUEST),
        ]
    )
    assert dno.lookup(nanp(2015550123), WHEN) == REQUEST
    assert dno.lookup(nanp(2015552000), WHEN) == UNUSED
    assert dno.lookup(nanp(2015552999), WHEN) == UNUSED
    assert dno.lookup(read_number(b"sip:+442079460123@h", "1"), WHEN) == REQUEST
    for national in (2015550122, 2015550124, 2015551999, 2015553000, 0, 10**10 - 1):
        assert dno.lookup(nanp(national), WHEN) is None


def test_invalid_number_is_found_too() -> None:
    dno = make_list([(parse_piece("2110550123"), REQUEST)])
    assert dno.lookup(read_number(b"sip:+12110550123@h", "1"), WHEN) == REQUEST


@pytest.mark.parametrize(
    "uri",
    [
        b"",
        b"sip:a.example",
        b"sip:anonymous@anonymous.invalid",
        b"sip:alice@h",
        b"sip:911@h",
        b"sip:*67@h",
        b"sip:+1@h",
        b"sip:+120155501234@h",
        b"sip:442079460123@h",
        b"sip:+44207@h",
    ],
)
def test_what_is_no_number_of_a_known_country_is_never_listed(uri: bytes) -> None:
    everything = make_list([(nanp_range(0, 10**10 - 1), REQUEST), (parse_piece("+442079460123"), REQUEST)])
    assert everything.lookup(read_number(uri, "1"), WHEN) is None


def test_bare_digits_of_an_unknown_country_are_never_listed() -> None:
    everything = make_list([(nanp_range(0, 10**10 - 1), REQUEST)])
    assert everything.lookup(read_number(b"sip:4420718387@h", ""), WHEN) is None
    assert everything.lookup(read_number(b"sip:4420718387@h", "1"), WHEN) == REQUEST


def test_expired_assertion_no_longer_holds() -> None:
    dno = make_list(
        [(parse_piece("2015550123"), UNUSED), (parse_piece("2015552*"), UNUSED), (parse_piece("+442079460123"), UNUSED)]
    )
    foreign = read_number(b"sip:+442079460123@h", "1")
    for number in (nanp(2015550123), nanp(2015552000), foreign):
        assert dno.lookup(number, WHEN + DAY - 0.001) == UNUSED
        assert dno.lookup(number, WHEN + DAY) is None


def test_number_that_is_asserted_twice_keeps_the_assertion_that_holds_longest() -> None:
    for order in ([UNUSED, UNALLOCATED, REQUEST], [REQUEST, UNALLOCATED, UNUSED]):
        dno = make_list([(parse_piece("2015550123"), assertion) for assertion in order])
        assert dno.lookup(nanp(2015550123), WHEN) == REQUEST
        assert list(dno.singles()) == [(parse_piece("2015550123"), REQUEST)]
        assert dno.assertions == (REQUEST,)


def test_tie_goes_to_the_lower_category_and_then_to_the_later_verification() -> None:
    invalid = REQUEST._replace(category=DnoCategory.INVALID)
    newer = REQUEST._replace(verified_at=WHEN)
    never = REQUEST._replace(verified_at=None)
    assert sorted([never, invalid, REQUEST, newer], key=precedence) == [newer, REQUEST, never, invalid]


def test_number_in_a_block_that_holds_shorter_keeps_its_own_assertion() -> None:
    dno = make_list([(parse_piece("2015552*"), UNUSED), (parse_piece("2015552345"), REQUEST)])
    assert dno.lookup(nanp(2015552345), WHEN) == REQUEST
    assert dno.lookup(nanp(2015552346), WHEN) == UNUSED
    assert dno.lookup(nanp(2015552345), WHEN + 2 * DAY) == REQUEST
    assert dno.lookup(nanp(2015552346), WHEN + 2 * DAY) is None


def test_number_in_a_block_that_holds_longer_is_the_blocks() -> None:
    dno = make_list([(parse_piece("2015552*"), REQUEST), (parse_piece("2015552345"), UNUSED)])
    assert dno.lookup(nanp(2015552345), WHEN) == REQUEST
    assert list(dno.singles()) == []


PIECES = st.one_of(
    st.tuples(st.integers(2015550000, 2015553000), st.integers(0, 20)),
    st.tuples(st.integers(2015550000, 2015553000), st.integers(900, 2500)),
    st.sampled_from([(2015551000, 999), (2015552000, 999), (2015550000, 3999)]),
).map(lambda t: nanp_range(t[0], t[0] + t[1]))
ASSERTIONS = st.builds(
    Assertion,
    st.sampled_from(DnoCategory),
    st.sampled_from(["a", "b"]),
    st.just("x"),
    st.sampled_from([None, WHEN - DAY, WHEN]),
    st.sampled_from([None, WHEN + DAY, WHEN + 2 * DAY]),
)
ENTRIES = st.lists(st.tuples(PIECES, ASSERTIONS), max_size=8)


def best(entries: Entries) -> dict[int, Assertion]:
    """Brute force: the winning assertion of every number."""
    winners: dict[int, Assertion] = {}
    for piece, assertion in entries:
        for e164 in range(piece.first, piece.last + 1):
            known = winners.get(e164)
            if known is None or precedence(assertion) < precedence(known):
                winners[e164] = assertion
    return winners


@given(ENTRIES, st.sampled_from([WHEN, WHEN + DAY, WHEN + 3 * DAY]))
@settings(max_examples=60)
def test_every_number_stands_on_the_assertion_that_wins(entries: Entries, when: float) -> None:
    winners = best(entries)
    dno = make_list(entries)
    for national in range(2015549998, 2015556002):
        e164 = NANP_FIRST + national
        winner = winners.get(e164)
        expected = winner if winner is not None and winner.holds(when) else None
        assert dno.find(e164, when) == expected == dno.lookup(nanp(national), when)
    assert dno.numbers() == NumberSet.build(Piece(e164, e164) for e164 in winners)
    # Not always equal: a block may keep its assertion although each of its numbers has a better one of its own.
    assert set(dno.assertions) >= set(winners.values())


@given(ENTRIES, ENTRIES)
@settings(max_examples=40)
def test_difference_of_lists_is_number_by_number(old: Entries, new: Entries) -> None:
    before, after = best(old), best(new)
    difference = compare(make_list(old), make_list(new))
    assert difference.added == NumberSet.build(Piece(n, n) for n in after.keys() - before.keys())
    assert difference.removed == NumberSet.build(Piece(n, n) for n in before.keys() - after.keys())
    changed = (n for n in before.keys() & after.keys() if before[n] != after[n])
    assert difference.changed == NumberSet.build(Piece(n, n) for n in changed)


def test_list_counts_its_numbers_by_category_and_by_assertion() -> None:
    dno = make_list(
        [
            (parse_piece("2015552*"), UNUSED),
            (parse_piece("2015550123"), REQUEST),
            (parse_piece("+442079460123"), REQUEST),
        ]
    )
    assert dno.manifest.counts == {
        "numbers": 1002,
        "subscriber-request": 2,
        "invalid": 0,
        "unallocated": 0,
        "unused": 1000,
        "blocks": 1,
        "exact": 1,
        "others": 1,
    }
    assert dno.count_by_assertion() == {UNUSED: 1000, REQUEST: 2}


def test_more_assertions_than_a_list_can_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dno_build, "MAX_ASSERTIONS", 2)
    builder = DnoBuilder()
    for name in ("a", "b", "a"):
        builder.assertion_id(REQUEST._replace(source=name))
    with pytest.raises(ConfigError, match="give dates instead of times"):
        builder.assertion_id(REQUEST._replace(source="c"))


def test_65535_assertions_are_told_apart() -> None:
    builder = DnoBuilder()
    for i in range(65_535):
        builder.add_number(2_000_000_000 + i, builder.assertion_id(REQUEST._replace(verified_at=float(i))))
    contents = builder.finish()
    dno = read_list(memoryview(b"".join(encode(contents, 1, WHEN, "test"))), "test")
    for i in (0, 1, 32_767, 65_533, 65_534):
        hit = dno.lookup(nanp(2_000_000_000 + i), WHEN)
        assert hit is not None
        assert hit.verified_at == float(i)


@pytest.mark.parametrize(
    ("text", "category", "reason"),
    [
        ("2110550123", DnoCategory.INVALID, ""),
        ("2111*", DnoCategory.INVALID, None),
        ("2015550123", DnoCategory.INVALID, ""),  # 555-01XX: set aside for fiction
        ("2015550100-2015550199", DnoCategory.INVALID, ""),
        ("2015550100-2015550200", DnoCategory.INVALID, "allows 201-555"),
        ("2012340123", DnoCategory.INVALID, "allows 201-234"),
        ("2019110123", DnoCategory.INVALID, ""),
        ("1000000000-1999999999", DnoCategory.INVALID, ""),
        ("2900000000-2999999999", DnoCategory.INVALID, ""),
        ("1990000000-2002000000", DnoCategory.INVALID, "allows 200-200"),
        ("232*", DnoCategory.UNALLOCATED, ""),
        ("204*", DnoCategory.UNALLOCATED, "204 belongs to Canada"),
        ("876555*", DnoCategory.UNALLOCATED, "876 belongs to Jamaica"),
        ("2030000000-2050000000", DnoCategory.UNALLOCATED, "204 belongs to Canada"),
        ("787*", DnoCategory.UNALLOCATED, ""),
        ("2042340123", DnoCategory.UNUSED, ""),
        ("+442079460123", DnoCategory.SUBSCRIBER_REQUEST, ""),
        ("+442079460123", DnoCategory.INVALID, "by subscriber request only"),
        ("+442079460123", DnoCategory.UNALLOCATED, "by subscriber request only"),
        ("+442079460123", DnoCategory.UNUSED, "by subscriber request only"),
    ],
)
def test_category_holds_only_what_the_law_lets_it_hold(text: str, category: DnoCategory, reason: str | None) -> None:
    if reason is None:
        with pytest.raises(ValueError, match="3, 6, 7 or 10"):
            parse_piece(text)
        return
    said = refusal(parse_piece(text), category)
    assert reason in said
    assert bool(reason) == bool(said)


def test_category_has_words() -> None:
    assert DnoCategory.SUBSCRIBER_REQUEST.label == "subscriber request"
    assert DnoCategory.SUBSCRIBER_REQUEST.slug == "subscriber-request"
