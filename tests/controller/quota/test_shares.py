"""Max-min fair shares, by what defines them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.quota.shares import fair_shares

AMOUNTS = st.floats(0, 1e6)
WISHES = st.lists(st.tuples(AMOUNTS, AMOUNTS).map(lambda pair: (min(pair), max(pair))), max_size=30)


def test_small_wishes_are_met_and_the_others_have_the_same() -> None:
    assert fair_shares([(0, 1), (0, 10), (0, 50), (0, 100)], 31) == [1, 10, 10, 10]


def test_what_is_left_over_is_divided_evenly() -> None:
    assert fair_shares([(0, 1), (0, 3)], 10) == [4, 6]


def test_nobody_has_less_than_his_floor() -> None:
    assert fair_shares([(5, 5), (0, 10), (0, 10)], 9) == [5, 2, 2]


@given(WISHES, AMOUNTS)
def test_all_of_the_capacity_is_divided_and_no_more(wishes: list[tuple[float, float]], capacity: float) -> None:
    shares = fair_shares(wishes, capacity)
    floors = sum(floor for floor, _ in wishes)
    if wishes:
        assert sum(shares) == pytest.approx(max(capacity, floors), rel=1e-9, abs=1e-6)


@given(WISHES, AMOUNTS)
def test_who_wants_more_than_he_has_has_no_less_than_anybody_beyond_a_floor(
    wishes: list[tuple[float, float]], capacity: float
) -> None:
    shares = fair_shares(wishes, capacity)
    unmet = [share for share, (_, wish) in zip(shares, wishes, strict=True) if share < wish - 1e-6]
    above = [share for share, (floor, _) in zip(shares, wishes, strict=True) if share > floor + 1e-6]
    if unmet and above:
        assert min(unmet) >= max(above) - 1e-3


@given(WISHES, AMOUNTS)
def test_whoever_wants_more_gets_no_less(wishes: list[tuple[float, float]], capacity: float) -> None:
    by_wish = sorted(
        (wish, share)
        for (_, wish), share in zip(wishes, fair_shares([(0, w) for _, w in wishes], capacity), strict=True)
    )
    assert all(less <= more + 1e-6 for (_, less), (_, more) in pairwise(by_wish))
