"""Ticks: a clock that only ever rises, made from one that may do anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.calls.ticks import Ticks

ANY_TIME = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1e6)


def test_ticks_follow_a_clock_that_runs() -> None:
    ticks = Ticks(0.25, longest=1000)
    counts = []
    for n in range(41):
        ticks.advance(500.0 + n * 0.125)
        counts.append(ticks.count)
    assert counts == [n // 2 for n in range(41)]


def test_ticks_do_not_drift_when_looked_at_rarely() -> None:
    ticks = Ticks(1.0, longest=1000)
    for n in range(101):
        ticks.advance(10.0 + n * 1.75)
    assert ticks.count == 175


@pytest.mark.parametrize(("step", "ticks_passed"), [(0.99, 0), (1.0, 1), (9.0, 9), (10.0, 10), (11.0, 10), (1e300, 10)])
def test_a_step_forward_takes_as_many_ticks_as_it_spans_up_to_the_longest(step: float, ticks_passed: int) -> None:
    ticks = Ticks(1.0, longest=10)
    ticks.advance(0.0)
    assert ticks.advance(step) == ticks_passed
    assert ticks.start <= step < ticks.end or step == 1e300


def test_a_step_backwards_takes_no_time_and_the_clock_runs_on_from_there() -> None:
    ticks = Ticks(1.0, longest=10)
    assert [ticks.advance(now) for now in (100.0, 101.0, 5.0, 5.5, 6.0, 7.5)] == [0, 1, 0, 0, 1, 1]


def test_a_clock_that_trembles_at_the_end_of_a_tick_does_not_hurry() -> None:
    ticks = Ticks(1.0, longest=10)
    for n in range(1000):
        ticks.advance(n * 0.01)
        ticks.advance(n * 0.01 - 0.005)
    assert ticks.count <= 10


@given(times=st.lists(ANY_TIME, max_size=50))
def test_whatever_the_clock_says_ticks_rise_by_at_most_the_longest_step(times: list[float]) -> None:
    ticks = Ticks(0.25, longest=7)
    for now in times:
        before = ticks.count
        passed = ticks.advance(now)
        assert ticks.count == before + passed
        assert 0 <= passed <= 7
