"""Small sets of numbers: membership against the plain ranges that they were built of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import NO_NUMBER, ConfigError, Number, NumberKind
from agent.numbers.patterns import NumberPatterns
from agent.numbers.ranges import NANP_FIRST, Piece

SMALL = st.integers(0, 300)
PIECES = st.lists(st.tuples(SMALL, SMALL).map(lambda ab: Piece(NANP_FIRST + min(ab), NANP_FIRST + max(ab))), max_size=8)


def nanp(national: int) -> Number:
    return Number(NumberKind.NANP, f"1{national:010d}", national)


@given(PIECES, PIECES, SMALL)
def test_membership_equals_the_ranges_that_went_in(some: list[Piece], more: list[Piece], national: int) -> None:
    inside = any(p.first <= NANP_FIRST + national <= p.last for p in some + more)
    assert (nanp(national) in (NumberPatterns(some) | NumberPatterns(more))) is inside
    assert (nanp(national) in NumberPatterns(some + more)) is inside


def test_text_forms_are_read_and_other_countries_kept_apart() -> None:
    patterns = NumberPatterns.parse(["+1201555*", "2025550100-2025550109", "+442079460123"], "numbers")
    assert nanp(2015550123) in patterns
    assert nanp(2025550109) in patterns
    assert nanp(2025550110) not in patterns
    assert Number(NumberKind.FOREIGN, "442079460123", -1) in patterns
    assert Number(NumberKind.AMBIGUOUS, "442079460123", -1) not in patterns
    assert NO_NUMBER not in patterns


def test_an_unreadable_entry_is_named() -> None:
    with pytest.raises(ConfigError, match=r"numbers\[1\]"):
        NumberPatterns.parse(["2015550123", "call me"], "numbers")


def test_only_a_single_number_is_single() -> None:
    assert NumberPatterns.parse(["2015550123"], "called").single() == "12015550123"
    assert NumberPatterns.parse(["2015550123", "2015550125"], "called").single() is None
    assert NumberPatterns.parse(["201555*"], "called").single() is None
    assert NumberPatterns().single() is None
