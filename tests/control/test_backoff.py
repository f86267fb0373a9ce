"""How long the agent waits before it asks again."""

from agent.control.backoff import BANNED_SECONDS, FIRST_SECONDS, LONGEST_SECONDS, STRANGER_SECONDS, Backoff
from agent.control.errors import ControllerError, Trouble

AWAY = ControllerError(Trouble.AWAY, "nobody answers")


def test_delays_are_spread_from_none_to_a_bound_that_doubles() -> None:
    longest, shortest = Backoff(lambda: 0.999), Backoff(lambda: 0.0)
    delays = [longest.failed(AWAY, 0.0) for _ in range(9)]
    assert [round(delay) for delay in delays] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert {shortest.failed(AWAY, 0.0) for _ in range(9)} == {0.0}


def test_only_a_healthy_minute_resets_it() -> None:
    backoff = Backoff(lambda: 0.999)
    now = 0.0
    for _ in range(10):
        backoff.failed(AWAY, now)
    for lasted in (0.0, 59.9):
        backoff.opened(now)
        now += lasted
        assert backoff.failed(AWAY, now) > LONGEST_SECONDS * 0.9
    backoff.opened(now)
    now += 60.0
    assert backoff.failed(AWAY, now) <= FIRST_SECONDS


def test_who_is_told_when_to_come_back_comes_later_than_that_and_not_with_everybody() -> None:
    def delay(chance: float, error: ControllerError) -> float:
        return Backoff(lambda: chance).failed(error, 0.0)

    for trouble, least in ((Trouble.BANNED, BANNED_SECONDS), (Trouble.STRANGER, STRANGER_SECONDS)):
        delays = [delay(chance, ControllerError(trouble, "no")) for chance in (0.0, 0.5, 0.9)]
        assert delays[0] == least
        assert delays == sorted(set(delays))
    assert delay(0.0, ControllerError(Trouble.BUSY, "later", 17.0)) == 17.0
