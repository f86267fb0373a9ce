"""How long answers hold: whatever servers, clocks and disks say, within bounds."""

from hypothesis import given
from hypothesis import strategies as st

from agent.identity.model import Credential, Unreachable
from agent.stir.caching import Lifetime
from agent.stir.entries import (
    RETRY_FIRST,
    RETRY_MOST,
    failed_entry,
    fetched_entry,
    reassessed,
    restored_entry,
    to_store,
)
from agent.stir.stored import Stored

DAY = 86400.0
GOOD = Credential(None, "1234", "CN=Issuer", 0.0, 1.0, "ab" * 32)
BAD = Credential(None, "", "", 0.0, 0.0, "", "no anchor of trust")
TIMES = st.floats(-1e12, 1e12, allow_nan=False)
SECONDS = st.floats(10.0, DAY)


@given(SECONDS, st.booleans(), TIMES)
def test_good_certificate_is_renewed_before_it_ends_and_used_a_day_at_most(
    seconds: float, stale: bool, now: float
) -> None:
    entry = fetched_entry("host", b"chain", GOOD, Lifetime(seconds, stale), now, DAY)
    assert now <= entry.renew_at <= entry.until <= entry.usable_until <= now + DAY
    assert stale or entry.usable_until == entry.until


@given(SECONDS, st.booleans(), TIMES)
def test_bad_certificate_is_asked_for_again_within_five_minutes(seconds: float, stale: bool, now: float) -> None:
    entry = fetched_entry("host", b"chain", BAD, Lifetime(seconds, stale), now, DAY)
    assert now < entry.until <= now + RETRY_MOST
    assert entry.renew_at == entry.usable_until == entry.until


@given(st.integers(1, 2000), st.floats(0, 1e9))
def test_failures_in_a_row_wait_longer_up_to_a_bound(times: int, now: float) -> None:
    entry = None
    for _ in range(times):
        entry = failed_entry(entry, "host", "404 Not Found", now)
    assert entry is not None
    assert entry.failures == times
    assert entry.answer == Unreachable("404 Not Found")
    assert now + RETRY_FIRST - 0.1 <= entry.until <= now + RETRY_MOST + 0.1


@given(SECONDS, st.floats(0, 2 * DAY))
def test_failed_renewal_never_makes_a_certificate_last_longer(seconds: float, later: float) -> None:
    old = fetched_entry("host", b"chain", GOOD, Lifetime(seconds, stale=True), 0.0, DAY)
    entry = failed_entry(old, "host", "503", later)
    if later < DAY:
        assert entry.answer is GOOD
        assert later < entry.until <= entry.usable_until == old.usable_until
        assert later < entry.renew_at
    else:
        assert entry.answer == Unreachable("503")


@given(TIMES, TIMES, TIMES, TIMES, TIMES)
def test_nothing_on_disk_is_used_longer_than_a_day_from_now(
    fetched: float, fresh: float, usable: float, now: float, when: float
) -> None:
    stored = Stored("url", fetched, b"", fresh_until=fresh, usable_until=usable)
    entry = restored_entry("host", GOOD, stored, now, when, DAY)
    if entry is not None:
        slack = 300.0 + 1e-3  # the clock may have been that wrong
        assert entry.until <= entry.usable_until <= now + DAY + slack


@given(SECONDS, st.booleans(), st.floats(0, 2 * DAY))
def test_restart_changes_no_time(seconds: float, stale: bool, later: float) -> None:
    lifetime = Lifetime(seconds, stale)
    fetched = fetched_entry("host", b"chain", GOOD, lifetime, 0.0, DAY)
    stored = to_store("url", b"", lifetime, 1e6, DAY)
    entry = restored_entry("host", GOOD, stored, later, 1e6 + later, DAY)
    if entry is None:
        assert later >= fetched.usable_until - 1e-3
        return
    for name in ("renew_at", "until", "usable_until"):
        assert abs(getattr(entry, name) - getattr(fetched, name)) < 1e-3


def test_bad_certificate_is_not_restored() -> None:
    stored = to_store("url", b"", Lifetime(DAY, stale=True), 0.0, DAY)
    assert restored_entry("host", BAD, stored, 0.0, 0.0, DAY) is None


def test_certificate_that_trust_is_taken_from_is_asked_for_again_soon() -> None:
    entry = fetched_entry("host", b"chain", GOOD, Lifetime(DAY, stale=True), 0.0, DAY)
    assert reassessed(entry, BAD, 100.0).until == 100.0 + RETRY_MOST
    again = reassessed(entry, GOOD, 100.0)
    assert (again.renew_at, again.until, again.usable_until) == (entry.renew_at, entry.until, entry.usable_until)
