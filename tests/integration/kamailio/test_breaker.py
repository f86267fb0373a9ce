"""The circuit breaker of the Kamailio client: calls do not wait for an agent that is away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.kamailio.module import load

hook = load()


def opened(now: float = 100.0) -> hook.Breaker:  # type: ignore[name-defined]
    breaker = hook.Breaker(failures=3, first=1.0, longest=1.0)
    for _ in range(3):
        assert breaker.allows(now)
        breaker.failed(now)
    return breaker


def test_it_asks_until_the_third_failure_in_a_row() -> None:
    breaker = hook.Breaker(failures=3, first=1.0, longest=1.0)
    for _ in range(2):
        breaker.failed(100.0)
    assert breaker.allows(100.0)
    breaker.failed(100.0)
    assert not breaker.allows(100.0)


def test_a_success_forgets_the_failures_before_it() -> None:
    breaker = hook.Breaker(failures=3, first=1.0, longest=1.0)
    for _ in range(10):
        breaker.failed(100.0)
        breaker.failed(100.0)
        breaker.succeeded()
    assert breaker.allows(100.0)


@pytest.mark.parametrize(("now", "asks"), [(100.0, False), (100.999, False), (101.0, True), (1e9, True)])
def test_open_it_asks_for_nobody_until_its_time_is_up(now: float, asks: bool) -> None:
    assert opened(100.0).allows(now) is asks


def test_half_open_it_asks_for_one_call_only() -> None:
    breaker = opened(100.0)
    assert breaker.allows(101.0)
    assert not breaker.allows(101.0)


def test_a_failed_trial_opens_it_again_for_as_long() -> None:
    breaker = opened(100.0)
    assert breaker.allows(101.5)
    breaker.failed(101.6)
    assert not breaker.allows(102.5)
    assert breaker.allows(102.6)


def test_a_successful_trial_closes_it_and_three_failures_are_needed_again() -> None:
    breaker = opened(100.0)
    assert breaker.allows(101.0)
    breaker.succeeded()
    breaker.failed(101.0)
    breaker.failed(101.0)
    assert breaker.allows(101.0)


def test_a_clock_that_steps_back_keeps_it_open_no_longer_than_the_step() -> None:
    breaker = opened(100.0)
    assert not breaker.allows(50.0)
    assert breaker.allows(101.0)


def test_it_stays_open_twice_as_long_after_each_failed_trial_up_to_its_longest() -> None:
    breaker, now, waits = hook.Breaker(failures=1, first=0.1, longest=1.0), 100.0, []
    breaker.failed(now)
    for _ in range(6):
        failed = now
        while not breaker.allows(now):
            now += 0.001
        waits.append(round(now - failed, 2))
        breaker.failed(now)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_after_a_success_it_stays_open_briefly_again() -> None:
    breaker = hook.Breaker(failures=1, first=0.1, longest=1.0)
    for now in (100.0, 101.0, 102.0):
        breaker.allows(now)
        breaker.failed(now)
    assert breaker.allows(103.0)
    breaker.succeeded()
    breaker.failed(104.0)
    assert not breaker.allows(104.09)
    assert breaker.allows(104.11)


@given(st.lists(st.floats(0.0, 0.5), max_size=300))
def test_an_agent_that_never_answers_is_asked_seven_times_and_then_once_a_second(steps: list[float]) -> None:
    breaker, now, asked = hook.Breaker(), 0.0, 0
    for step in steps:
        now += step
        if breaker.allows(now):
            asked += 1
            breaker.failed(now)
    assert asked <= 7 + now


@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.booleans()), max_size=200))
def test_it_is_closed_after_every_success_and_never_asks_while_open(steps: list[tuple[float, bool]]) -> None:
    breaker, now = hook.Breaker(failures=3, first=1.0, longest=1.0), 0.0
    for step, good in steps:
        now += step
        if breaker.allows(now):
            if good:
                breaker.succeeded()
                assert breaker.state is hook.State.CLOSED
            else:
                breaker.failed(now)
        else:
            assert breaker.state is hook.State.OPEN
