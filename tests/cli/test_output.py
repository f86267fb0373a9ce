"""Progress: nothing for short work, lines where no bar can be drawn."""

import pytest

from agent.cli import output


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(output, "time", clock)
    return clock


def test_short_work_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress("replay", 100, enabled=True) as moved:
        moved(50)
        clock.now = 0.9
        moved(100)
    assert capsys.readouterr().err == ""


def test_long_work_tells_every_few_seconds_where_it_is(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress("replay", 200, enabled=True) as moved:
        for second in range(1, 12):
            clock.now = float(second)
            moved(second * 10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["sbc-agent: replay: 5%", "sbc-agent: replay: 30%", "sbc-agent: replay: 55%"]


def test_progress_that_is_off_stays_off(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress("replay", None, enabled=False) as moved:
        clock.now = 60.0
        moved(1)
    assert capsys.readouterr().err == ""
