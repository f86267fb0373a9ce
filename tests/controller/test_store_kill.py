"""kill -9 at random moments, making tables and keys included: what was acknowledged is there, whole, and once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]


def killed(lives: int, seed: int, url: str = "") -> dict[str, object]:
    command = [sys.executable, "-m", "tests.controller.crash", str(lives), str(seed), *([url] if url else [])]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    result = json.loads(output)
    assert isinstance(result, dict)
    return result


def sound(result: dict[str, object], lives: int) -> None:
    assert result["wrong"] == []
    assert result["lives"] == lives
    assert isinstance(result["records"], int)
    assert result["records"] > lives, "the controllers were hardly at work"
    assert isinstance(result["killed_before_open"], int)
    assert 0 < result["killed_before_open"] < lives


@pytest.mark.slow
def test_kills_of_a_controller_on_sqlite_lose_nothing_that_was_acknowledged() -> None:
    sound(killed(60, 20261123), 60)


@pytest.mark.slow
def test_kills_of_a_controller_on_postgresql_lose_nothing_that_was_acknowledged(own_server: PostgresServer) -> None:
    sound(killed(30, 20261124, own_server.url("postgres")), 30)
