"""`at_desk(work)` runs a coroutine with a controller and an administrator's terminal."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.controller.ctl.running import Desk, at_desk

AtDesk = Callable[[Callable[[Desk], Awaitable[None]]], None]


@pytest.fixture(name="at_desk")
def at_desk_here(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> AtDesk:
    """In a folder of the test's own."""
    return lambda work: at_desk(work, tmp_path, capsys, monkeypatch)
