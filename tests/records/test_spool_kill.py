"""kill -9 at random moments under load: what was acknowledged is there, nothing is twice, and it opens at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def killed(lives: int, seed: int) -> dict[str, object]:
    output = subprocess.run(
        [sys.executable, "-m", "tests.records.crash", str(lives), str(seed)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    result = json.loads(output)
    assert isinstance(result, dict)
    return result


def sound(result: dict[str, object], lives: int) -> None:
    assert result["wrong"] == []
    assert result["lives"] == lives
    assert result["set_aside"] == 0, "a crash is no damage"
    assert isinstance(result["records"], int)
    assert result["records"] > 20 * lives, "the writers were hardly at work"
    assert isinstance(result["slowest_open"], float)
    assert result["slowest_open"] < 2.0


def test_a_dozen_kills_lose_nothing_that_was_acknowledged() -> None:
    sound(killed(12, 7), 12)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_hundred_kills_lose_nothing_that_was_acknowledged() -> None:
    sound(killed(200, 20261014), 200)
