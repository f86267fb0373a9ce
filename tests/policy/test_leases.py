"""Shares of the fleet's limits at the agent: to the moment, and never a token that was not leased."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.policy import leases as module
from agent.policy.leases import FleetRate, Lease, LeaseBook, Partition, Safe

KEY = ("all", "*")
OF = FleetRate(100.0, 30.0, Partition.SAFE)
SAFE = Safe(2.0, 1.0)


def attached(partition: Partition = Partition.SAFE) -> LeaseBook:
    book = LeaseBook()
    book.attached = True
    book.follow({"all": FleetRate(100.0, 30.0, partition)}, [KEY])
    book.demands(0.0)
    return book


def admitted(book: LeaseBook, times: list[float]) -> list[float]:
    """Which of these attempts pass."""
    passed = []
    for now in times:
        found = book.hit(*KEY, now)
        if found is None or found[1]:
            passed.append(now)
            if found is not None:
                found[0].take()
    return passed


def every(seconds: float, start: float, end: float) -> list[float]:
    return [start + n * seconds for n in range(round((end - start) / seconds))]


def test_a_share_begins_empty_and_fills_with_its_rate_up_to_its_burst() -> None:
    book = attached()
    book.give(KEY, Lease(10.0, 5.0, inf, SAFE), 0.0)
    assert admitted(book, [0.0, 0.05]) == []
    assert admitted(book, [0.1, 0.1]) == [0.1]
    assert len(admitted(book, [100.0] * 9)) == 5


def test_a_lease_ends_to_the_moment_and_the_safe_rate_follows() -> None:
    book = attached()
    book.give(KEY, Lease(10.0, 5.0, 1.0, SAFE), 0.0)
    # Ten a second for one second, then two a second, of which one may come at once.
    assert len(admitted(book, every(0.01, 0.0, 1.0))) == 9
    assert len(admitted(book, every(0.01, 1.0, 11.0))) in (20, 21)


def test_what_came_after_the_end_counts_at_the_safe_rate_also_when_nobody_looked() -> None:
    book = attached()
    book.give(KEY, Lease(10.0, 5.0, 1.0, Safe(0.5, 3.0)), 0.0)
    assert len(admitted(book, [3.0] * 9)) == 3  # five until 1.0, of which three fit afterwards
    assert len(admitted(book, [5.0] * 9)) == 1


def test_a_larger_share_keeps_its_tokens_and_is_not_filled() -> None:
    book = attached()
    book.give(KEY, Lease(10.0, 5.0, inf, SAFE), 0.0)
    assert len(admitted(book, [10.0] * 5)) == 5
    book.give(KEY, Lease(100.0, 30.0, inf, SAFE), 10.0)
    assert admitted(book, [10.0]) == []
    assert len(admitted(book, [10.1] * 20)) == 10


def test_a_smaller_share_keeps_what_fits() -> None:
    book = attached()
    book.give(KEY, Lease(10.0, 30.0, inf, SAFE), 0.0)
    book.give(KEY, Lease(1.0, 2.0, inf, SAFE), 60.0)
    assert len(admitted(book, [60.0] * 9)) == 2


def test_hold_goes_on_with_the_last_share() -> None:
    book = attached(Partition.HOLD)
    book.give(KEY, Lease(10.0, 5.0, 1.0, Safe(0.1, 1.0, Partition.HOLD)), 0.0)
    assert len(admitted(book, every(0.01, 50.0, 60.0))) == pytest.approx(105, abs=1)


def test_open_and_hold_leave_it_to_the_limit_s_own_rate_until_there_is_a_lease_and_safe_does_not() -> None:
    for partition in (Partition.OPEN, Partition.HOLD):
        assert attached(partition).hit(*KEY, 0.0) is None
    found = attached().hit(*KEY, 0.0)
    assert found is not None
    assert not found[1]


def test_open_leaves_it_to_the_limit_s_own_rate_after_the_lease() -> None:
    book = attached(Partition.OPEN)
    book.give(KEY, Lease(10.0, 5.0, 1.0, Safe(0.0, 0.0, Partition.OPEN)), 0.0)
    assert book.hit(*KEY, 0.5) is not None
    assert book.hit(*KEY, 1.0) is None


def test_without_a_controller_no_share_decides() -> None:
    book = LeaseBook()
    book.follow({"all": OF}, [KEY])
    assert book.hit(*KEY, 0.0) is None
    assert len(book) == 0


def test_a_host_that_slept_has_no_lease() -> None:
    book = attached()
    book.give(KEY, Lease(10.0, 5.0, 100.0, SAFE), 0.0)
    book.end_all(1.0)
    assert len(admitted(book, every(0.01, 1.0, 11.0))) == pytest.approx(20, abs=1)


def test_what_was_kept_on_disk_holds_before_the_first_lease() -> None:
    book = LeaseBook()
    book.attached = True
    book.restore({KEY: SAFE})
    book.follow({"all": OF}, [])
    assert len(admitted(book, every(0.01, 0.0, 10.0))) == pytest.approx(20, abs=1)
    (demand,) = book.demands(10.0)
    assert demand.safe == SAFE
    assert book.safe() == {KEY: SAFE}


def test_kept_keys_are_asked_for_so_that_nobody_else_gets_their_safe_rate() -> None:
    book = LeaseBook()
    book.attached = True
    book.restore({("all", "b"): SAFE, ("gone", "b"): SAFE})
    book.follow({"all": OF}, [])
    assert [(d.limit, d.key) for d in book.demands(0.0)] == [("all", "b")]


def test_demand_rises_at_once_and_falls_slowly() -> None:
    book = attached()
    for now in every(0.01, 0.0, 1.0):
        book.hit(*KEY, now)
    assert book.demands(1.0)[0].rate == pytest.approx(100.0)
    for now in every(0.1, 1.0, 2.0):
        book.hit(*KEY, now)
    falling = [book.demands(float(second))[0].rate for second in range(2, 20)]
    assert falling[0] == pytest.approx(10.0)
    assert falling[1] == pytest.approx(2.5)
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == 0.0


def test_the_controller_is_asked_at_once_for_a_new_key_a_surge_and_to_confirm_less() -> None:
    needs: list[str] = []
    book = attached()
    book.on_need = lambda: needs.append("need")
    book.hit("all", "b", 0.0)
    assert len(needs) == 1
    for _ in range(50):
        book.hit(*KEY, 0.5)
    assert len(needs) == 2
    book.give(KEY, Lease(50.0, 5.0, inf, SAFE), 1.0)
    book.give(KEY, Lease(48.0, 5.0, inf, SAFE), 1.0)
    assert len(needs) == 2
    book.give(KEY, Lease(20.0, 5.0, inf, SAFE), 1.0)
    assert len(needs) == 3


def test_keys_that_are_idle_are_given_back_and_those_of_the_policy_are_not() -> None:
    book = attached()
    book.hit("all", "b", 1.0)
    assert len(book.demands(600.0)) == 2
    assert [d.key for d in book.demands(602.0)] == ["*"]


def test_shares_of_limits_that_the_policy_has_not_any_more_are_given_back() -> None:
    book = attached()
    book.follow({"other": OF}, [])
    assert book.demands(1.0) == []
    assert book.hit(*KEY, 1.0) is None
    assert not book.give(KEY, Lease(1.0, 1.0, inf, SAFE), 1.0)


def test_keys_beyond_the_bound_count_by_the_limit_s_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEYS_MAX", 2)
    book = attached()
    assert book.hit("all", "b", 0.0) is not None
    assert book.hit("all", "c", 0.0) is None
    assert book.overflows == 1


STEPS = st.lists(
    st.tuples(
        st.floats(0, 3),  # seconds that go by
        st.integers(0, 30),  # attempts then
        st.none() | st.tuples(st.floats(0, 50), st.floats(0, 20), st.floats(0, 3)),  # a lease: rate, burst, life
    ),
    max_size=40,
)


@given(STEPS)
def test_no_window_admits_more_than_what_was_leased_in_it_and_the_burst(
    steps: list[tuple[float, int, tuple[float, float, float] | None]],
) -> None:
    """Against the tokens that all leases together can have brought, second by second."""
    book, now, brought, largest = attached(), 0.0, 0.0, SAFE.burst
    lease = Lease(0.0, 0.0, -inf, Safe())
    passed: list[tuple[float, int]] = []  # (tokens brought so far, how many had passed before)
    for pause, attempts, given_ in steps:
        end = now + pause
        brought += max(0.0, min(end, lease.until) - now) * lease.rate
        brought += (end - max(now, min(end, lease.until))) * lease.safe.rate
        now = end
        if given_ is not None:
            rate, burst, life = given_
            lease = Lease(rate, burst, now + life, SAFE)
            largest = max(largest, burst)
            book.give(KEY, lease, now)
        for _ in range(len(admitted(book, [now] * attempts))):
            passed.append((brought, len(passed)))
    for start, before in passed:
        for end, earlier in passed[before:]:
            assert earlier + 1 - before <= end - start + largest + 1e-6
