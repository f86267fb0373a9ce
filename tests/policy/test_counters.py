"""The rate algorithm, in both twins: what it admits in any window, and what its table forgets."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import native
from agent.policy.counters import (
    BANK_MAX,
    Rate,
    RateBankPy,
    RateTablePy,
)

TWINS = [pytest.param((RateTablePy, RateBankPy), id="python")]
if native.rates is not None:
    TWINS.append(pytest.param((native.rates.RateTable, native.rates.RateBank), id="native"))
Twin = tuple[type[RateTablePy], type[RateBankPy]]

RATES = st.builds(
    Rate,
    count=st.floats(0.1, 10_000),
    window=st.sampled_from([0.1, 1.0, 60.0]),
    burst=st.floats(1, 5000),
)
twins = pytest.mark.parametrize("twin", TWINS)


def new_table(twin: Twin, rate: Rate, capacity: int = 1000) -> RateTablePy:
    return twin[0](rate.window, rate.interval, rate.tolerance, capacity)


def admitted_times(table: RateTablePy, times: list[float]) -> list[float]:
    """The times of those attempts of one key that conform and are admitted."""
    passed = []
    for now in times:
        cell = table.hit("key", now)
        if table.conforms(cell, now):
            table.admit(cell, now)
            passed.append(now)
    return passed


@twins
@given(rate=RATES, gaps=st.lists(st.floats(0, 2), min_size=1, max_size=200), scale=st.floats(0.001, 10))
def test_admits_at_most_rate_times_t_plus_burst_in_every_window(
    twin: Twin, rate: Rate, gaps: list[float], scale: float
) -> None:
    now, times = 1000.0, []
    for gap in gaps:
        now += gap * scale * rate.interval
        times.append(now)
    passed = admitted_times(new_table(twin, rate), times)
    for i, start in enumerate(passed):
        for j in range(i, len(passed)):
            elapsed = passed[j] - start
            assert j - i + 1 <= (elapsed + 2 * rate.grace) / rate.interval + rate.burst + 1e-6


@twins
@given(rate=RATES)
def test_even_traffic_at_the_rate_is_never_refused(twin: Twin, rate: Rate) -> None:
    times = [1000.0 + i * rate.interval * 1.0001 for i in range(200)]
    assert admitted_times(new_table(twin, rate), times) == times


@twins
@given(rate=RATES, size=st.integers(1, 6000), epoch=st.sampled_from([5.0, 9_999_999.123]))
def test_a_burst_admits_exactly_the_burst(twin: Twin, rate: Rate, size: int, epoch: float) -> None:
    whole = replace(rate, burst=float(int(rate.burst)))
    admitted = len(admitted_times(new_table(twin, whole), [epoch] * size))
    rounded_up = int(2 * whole.grace / whole.interval)  # 0 below 10,000 attempts per second or so
    assert min(size, int(whole.burst)) <= admitted <= int(whole.burst) + rounded_up


@twins
@given(rate=RATES, steps=st.lists(st.floats(0, 5), max_size=60))
def test_forgetting_idle_cells_changes_nothing(twin: Twin, rate: Rate, steps: list[float]) -> None:
    """Other keys rotate the generations of one table; the other table holds the one key alone."""
    lonely, busy = new_table(twin, rate), new_table(twin, rate)
    now = 1000.0
    for i, step in enumerate(steps):
        now += step * rate.window
        busy.hit(f"other {i}", now)
        assert admitted_times(lonely, [now]) == admitted_times(busy, [now])


@twins
def test_a_flood_of_fresh_keys_stays_within_the_capacity_and_is_counted(twin: Twin) -> None:
    table = new_table(twin, Rate(1, 60, 1), capacity=100)
    for i in range(10_000):
        table.hit(str(i), 1000.0)
    assert len(table) <= 100
    assert table.overflows == 10_000 - len(table)


@twins
def test_attempts_of_the_running_window_are_counted_even_when_refused(twin: Twin) -> None:
    table = new_table(twin, Rate(30, 1, 10))
    cells = [table.hit("t", 1000.0 + i / 100) for i in range(31)]
    assert cells[-1].attempts == 31
    assert table.hit("t", 1001.0).attempts == 1


@twins
def test_a_clock_that_steps_back_does_not_block_for_long(twin: Twin) -> None:
    table = new_table(twin, Rate(1, 1, 1))
    assert admitted_times(table, [1_000_000.0])
    assert admitted_times(table, [10.0]) == [10.0]


@twins
def test_an_older_and_slower_rate_does_not_outlive_its_replacement(twin: Twin) -> None:
    table = new_table(twin, Rate(1, 3600, 1))
    assert admitted_times(table, [1000.0])
    fast = Rate(10, 1, 1)
    table.configure(fast.window, fast.interval, fast.tolerance)
    assert admitted_times(table, [1001.0]) == [1001.0]


@pytest.mark.parametrize("bad", [(0, 1, 1), (1, 0, 1), (1, 1, 0.5), (float("nan"), 1, 1), (float("inf"), 1, 1)])
def test_an_impossible_rate_cannot_be_built(bad: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="rate needs"):
        Rate(*bad)


@twins
def test_a_bank_skips_empty_keys_and_marks_who_is_over_and_who_warns(twin: Twin) -> None:
    rates = (Rate(2, 1, 2), Rate(100, 1, 100))
    bank = twin[1](tuple(new_table(twin, r) for r in rates), (0, 1), (0, 3))
    signs = []
    for _ in range(4):
        signs.append(bank.hit(("a", "b"), 1000.0))
        bank.admit(1000.0)
    assert signs == [0, 0, 1 | 1 << (BANK_MAX + 1), 1]
    assert bank.hit(("", "b"), 1000.0) == 0
    assert (bank.attempts(0), bank.attempts(1)) == (0, 5)


@twins
def test_an_attempt_that_is_not_admitted_consumes_nothing(twin: Twin) -> None:
    bank = twin[1]((new_table(twin, Rate(1, 1, 1)),), (0,), (0,))
    assert [bank.hit(("a",), 1000.0) for _ in range(5)] == [0] * 5
    bank.admit(1000.0)
    bank.admit(1000.0)  # once per hit: the second consumes nothing
    assert bank.hit(("a",), 1001.0) == 0


@twins
def test_a_bank_refuses_what_it_cannot_hold(twin: Twin) -> None:
    table = new_table(twin, Rate(1, 1, 1))
    with pytest.raises(ValueError, match="at most 32"):
        twin[1]((table,) * 33, (0,) * 33, (0,) * 33)
    with pytest.raises(ValueError, match="one slot"):
        twin[1]((table,), (), (0,))


KEYS = st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from(["x", "y"]))
EVENTS = st.lists(st.tuples(KEYS, st.floats(-2, 3), st.booleans()), max_size=80)


@pytest.mark.skipif(native.rates is None, reason="no compiled twin here")
@given(rates=st.tuples(RATES, RATES), events=EVENTS, capacity=st.integers(1, 6))
def test_the_twins_agree(
    rates: tuple[Rate, Rate], events: list[tuple[tuple[str, str], float, bool]], capacity: int
) -> None:
    assert native.rates is not None
    compiled: Twin = (native.rates.RateTable, native.rates.RateBank)
    tables = [[new_table(twin, rate, capacity) for rate in rates] for twin in ((RateTablePy, RateBankPy), compiled)]
    ours = RateBankPy(tuple(tables[0]), (0, 1), (2, 3))
    theirs = compiled[1](tuple(tables[1]), (0, 1), (2, 3))
    now = 1000.0
    for keys, step, passes in events:
        now += step
        assert ours.hit(keys, now) == theirs.hit(keys, now)
        assert [ours.attempts(i) for i in (0, 1)] == [theirs.attempts(i) for i in (0, 1)]
        if passes:
            ours.admit(now)
            theirs.admit(now)
    assert [t.overflows for t in tables[0]] == [t.overflows for t in tables[1]]
    assert list(map(len, tables[0])) == list(map(len, tables[1]))
