"""A token is shown by one call. Copies of that call are no replays, a full table forgets and says so."""

from math import inf, nan

from hypothesis import given
from hypothesis import strategies as st

from agent.identity.recent import Recent
from agent.identity.replay import ReplayCache

TOKEN = bytes(range(64))


def test_second_call_with_the_same_token_is_a_replay_and_the_first_never_is() -> None:
    cache = ReplayCache()
    assert cache.show(TOKEN, b"a", b"1", 1000.0)
    assert not cache.show(TOKEN, b"b", b"1", 1000.0)
    assert not cache.show(TOKEN, b"a", b"2", 1001.0)
    assert cache.show(TOKEN, b"a", b"1", 1002.0)
    assert len(cache) == 1


def test_only_r_of_the_signature_counts() -> None:
    cache = ReplayCache()
    assert cache.show(TOKEN, b"a", b"1", 1000.0)
    assert not cache.show(TOKEN[:32] + bytes(32), b"b", b"1", 1000.0)
    assert cache.show(bytes(32) + TOKEN[32:], b"b", b"1", 1000.0)


def test_token_is_remembered_for_a_window_and_forgotten_after_two() -> None:
    cache = ReplayCache(window=120)
    assert cache.show(TOKEN, b"a", b"1", 1000.0)
    assert not cache.show(TOKEN, b"b", b"1", 1119.9)
    assert not cache.show(TOKEN, b"b", b"1", 1239.9)
    assert cache.show(TOKEN, b"b", b"1", 1240.1)


def test_window_holds_wherever_in_a_generation_the_token_came() -> None:
    for shift in range(0, 120, 7):
        cache = ReplayCache(window=120)
        cache.show(bytes(64), b"x", b"x", 1000.0 - shift)
        assert cache.show(TOKEN, b"a", b"1", 1000.0)
        assert not cache.show(TOKEN, b"b", b"1", 1120.0)


def test_long_silence_forgets_everything() -> None:
    cache = ReplayCache(window=120)
    cache.show(TOKEN, b"a", b"1", 1000.0)
    assert cache.show(bytes(64), b"b", b"1", 9000.0)
    assert len(cache) == 1


def test_clock_that_steps_back_forgets_nothing_and_goes_on() -> None:
    cache = ReplayCache(window=120)
    cache.show(TOKEN, b"a", b"1", 10_000.0)
    assert not cache.show(TOKEN, b"b", b"1", 5.0)
    assert not cache.show(TOKEN, b"b", b"1", nan)
    assert not cache.show(TOKEN, b"b", b"1", inf)
    assert cache.show(TOKEN, b"b", b"1", 5.0 + 240.1)


def test_full_table_forgets_the_older_half_and_counts_it() -> None:
    cache = ReplayCache(capacity=20)
    for n in range(35):
        assert cache.show(n.to_bytes(32, "big") + bytes(32), b"a", b"1", 1000.0)
        assert len(cache) <= 20
    assert cache.overflows == 20
    assert not cache.show((34).to_bytes(32, "big") + bytes(32), b"b", b"1", 1000.0)


def test_copies_do_not_push_anything_out() -> None:
    cache = ReplayCache(capacity=2)
    for _ in range(10):
        assert cache.show(TOKEN, b"a", b"1", 1000.0)
    assert cache.overflows == 0


shown = st.tuples(st.integers(0, 5), st.sampled_from([b"a", b"b", b"c"]), st.floats(0, 10))


@given(st.lists(shown, max_size=60))
def test_within_a_window_exactly_the_calls_that_were_not_first_are_replays(
    events: list[tuple[int, bytes, float]],
) -> None:
    cache = ReplayCache(window=1000)
    first: dict[int, bytes] = {}
    now = 1000.0
    for token, call_id, later in events:
        now += later
        expected = first.setdefault(token, call_id) == call_id
        assert cache.show(bytes([token]) * 64, call_id, b"t", now) is expected


def test_recent_keeps_what_is_used_and_stays_within_its_capacity() -> None:
    recent: Recent[int, str] = Recent(10)
    for n in range(1000):
        recent.put(n, str(n))
        assert recent.get(n) == str(n)
        recent.put(-1, "kept")
        assert len(recent) <= 10
    assert recent.get(-1) == "kept"
    assert recent.get(3) is None


def test_recent_revives_what_is_only_read() -> None:
    recent: Recent[int, str] = Recent(10)
    recent.put(-1, "kept")
    for n in range(1000):
        recent.put(n, str(n))
        assert recent.get(-1) == "kept"
