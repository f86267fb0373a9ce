"""Servers that fail to start, or to stop, one by one."""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agent.model import ConfigError
from agent.ops import supervision
from agent.ops.log import LineWriter, Log
from agent.ops.supervision import Supervised, stop_all
from tests.fakes.waiting import until


class Fake:
    """A server that fails as often as it is told to, and stops as slowly."""

    name = "fake"

    def __init__(self, error: Exception | None = None, stopping: float = 0.0) -> None:
        self.stopped_with: list[float] = []
        self._error = error
        self._stopping = stopping

    def health(self) -> tuple[bool, str]:
        return True, "fine"

    def counters(self) -> Mapping[str, int]:
        return {"fake_things": 1}

    async def start(self) -> None:
        if self._error is not None:
            raise self._error

    async def stop(self, grace: float) -> None:
        self.stopped_with.append(grace)
        await asyncio.sleep(min(grace, self._stopping))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield Log(LineWriter(descriptor))
    os.close(descriptor)


def events(folder: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (folder / "log").read_text().splitlines()]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConfigError("listen", "is taken"), "part.listen: is taken"),
        (ConfigError("part.listen", "is taken"), "part.listen: is taken"),
        (ConfigError("", "is taken"), "is taken"),
        (OSError(98, "Address already in use"), "part: Address already in use"),
        (PermissionError(13, "Permission denied", "/run/x"), "part: /run/x: Permission denied"),
        (RuntimeError("bug"), "part: RuntimeError: bug"),
    ],
)
def test_a_server_that_does_not_start_says_why_and_is_not_well(error: Exception, words: str, log: Log) -> None:
    async def main() -> None:
        part = Supervised(lambda: Fake(error), "part", log)
        await part.start()
        assert part.health() == (False, words)
        await part.stop(0.0)

    asyncio.run(main())


def test_it_is_tried_again_with_a_new_server_and_told_once(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "RETRY_SECONDS", 0.001)
    busy = OSError(98, "Address already in use")
    built: list[Fake] = []

    def build() -> Fake:
        built.append(Fake(busy if len(built) < 5 else None))
        return built[-1]

    async def main() -> None:
        part = Supervised(build, "part", log)
        await part.start()
        assert not part.running
        await until(lambda: part.running)
        assert part.health() == (True, "fine")
        assert part.counters() == {"fake_things": 1}
        assert part.server is built[-1]
        await part.stop(1.0)
        assert built[-1].stopped_with == [1.0]
        assert part.health() == (False, "stopped")

    asyncio.run(main())
    assert events(tmp_path) == ["does not start, will be tried again", "started after all"]


def test_nothing_starts_any_more_after_the_stop(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "RETRY_SECONDS", 0.001)
    built: list[Fake] = []

    def build() -> Fake:
        built.append(Fake(OSError(1, "no")))
        return built[-1]

    async def main() -> None:
        part = Supervised(build, "part", log)
        await part.start()
        await part.stop(0.0)
        count = len(built)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert len(built) == count

    asyncio.run(main())


def test_all_stop_at_the_same_time_and_hastening_ends_the_wait(log: Log) -> None:
    async def main() -> None:
        fakes = [Fake(stopping=30.0), Fake(stopping=30.0), Fake()]
        parts = [Supervised(lambda fake=fake: fake, "part", log) for fake in fakes]  # type: ignore[misc]
        for part in parts:
            await part.start()
        hasten = asyncio.Event()
        async with asyncio.timeout(5.0):
            stopping = asyncio.create_task(stop_all(parts, 60.0, hasten, log))
            await until(lambda: all(fake.stopped_with for fake in fakes))
            hasten.set()
            await until(lambda: all(fake.stopped_with == [60.0, 0.0] for fake in fakes[:2]))
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)
        assert fakes[2].stopped_with == [60.0]

    asyncio.run(main())


def test_a_server_that_does_not_stop_is_left_behind(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "STOP_MARGIN", 0.01)

    class Stuck(Fake):
        async def stop(self, grace: float) -> None:
            await asyncio.sleep(3600)

    async def main() -> None:
        part = Supervised(Stuck, "part", log)
        await part.start()
        async with asyncio.timeout(5.0):
            await stop_all([part], 0.01, asyncio.Event(), log)

    asyncio.run(main())
    assert events(tmp_path) == ["does not stop, left behind"]


def test_a_fault_while_stopping_is_the_logs_business(log: Log, tmp_path: Path) -> None:
    class Broken(Fake):
        async def stop(self, grace: float) -> None:
            raise ZeroDivisionError

    async def main() -> None:
        part = Supervised(Broken, "part", log)
        await part.start()
        await stop_all([part], 1.0, asyncio.Event(), log)

    asyncio.run(main())
    assert events(tmp_path) == ["fault"]
