"""Commands of an operator: in pieces, bounded, and never more than is on the list."""

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.control import commands
from agent.control.commands import PIECE_MAX, TAIL_KEPT, TAILS_MAX, Abilities, Commands, Tail
from agent.control.messages import Code, Command, CommandAnswer, FieldViolation, Problem
from agent.control.preparing import Refused
from agent.ops.log import LineWriter, Log
from agent.screening import Screening
from tests.fakes.calls import invite, policy, screen
from tests.fakes.waiting import until


class Desk:
    """Everything that commands may do, and what was answered."""

    def __init__(self, folder: Path) -> None:
        self.answers: list[CommandAnswer] = []
        self.found: Sequence[str] | Exception = ()
        self.drained = 0
        self.upgrades: list[tuple[str, str, float]] = []
        self.tail = Tail()
        self._file = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.log = Log(LineWriter(self._file))
        abilities = Abilities(lambda: '{"status": 1}', lambda: "{}", self.find, self.replay, self.drain, self.upgrade)
        self.commands = Commands(abilities, self.tail, self.log)

    async def find(self, _call_id: str) -> Sequence[str]:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    async def replay(self, _policy: bytes, _window: float) -> Sequence[str]:
        return await self.find("")

    def drain(self) -> None:
        self.drained += 1

    async def upgrade(self, version: str, upgrade: str, soak: float) -> None:
        if isinstance(self.found, Exception):
            raise self.found
        self.upgrades.append((version, upgrade, soak))

    async def send(self, answer: CommandAnswer) -> None:
        self.answers.append(answer)

    async def run(self, word: str, **more: Any) -> Problem | None:
        self.answers.clear()
        await self.commands.run(Command("1", word, None, **more), self.send)
        assert [answer.last for answer in self.answers].count(True) == 1
        assert self.answers[-1].last
        return self.answers[-1].problem

    def said(self) -> list[Any]:
        return [json.loads(text) for answer in self.answers for text in answer.json]


def test_an_upgrade_is_asked_for_or_refused_with_the_reason(tmp_path: Path) -> None:
    async def main() -> None:
        desk = Desk(tmp_path)
        assert await desk.run("upgrade", argument="0.2.0", upgrade="00ff", duration=5.0) is None
        assert desk.upgrades == [("0.2.0", "00ff", 5.0)]
        desk.found = LookupError("the administrator of the host does not let it")
        problem = await desk.run("upgrade", argument="0.2.0", upgrade="00ff")
        assert problem == Problem(Code.FAILED_PRECONDITION, "the administrator of the host does not let it")

    asyncio.run(main())


def test_status_and_diagnostics_are_one_object_each(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert asyncio.run(desk.run("status")) is None
    assert desk.said() == [{"status": 1}]
    assert asyncio.run(desk.run("diagnostics")) is None
    assert desk.said() == [{}]


def test_what_is_large_goes_in_pieces_and_what_is_too_large_is_counted(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.found = [json.dumps({"n": n, "x": "x" * 50_000}) for n in range(20)] + [json.dumps("y" * PIECE_MAX)]
    assert asyncio.run(desk.run("explain", argument="a@b")) is None
    assert [one["n"] for one in desk.said()[:-1]] == list(range(20))
    assert desk.said()[-1] == {"too_large": 1}
    assert max(sum(map(len, answer.json)) for answer in desk.answers) <= PIECE_MAX
    assert len(desk.answers) > 5


def test_why_there_is_no_answer_is_said(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.found = LookupError("this agent keeps no records")
    problem = asyncio.run(desk.run("explain", argument="a@b"))
    assert problem == Problem(Code.FAILED_PRECONDITION, "this agent keeps no records")
    for argument in ("", "x" * 5000):
        problem = asyncio.run(desk.run("explain", argument=argument))
        assert problem is not None
        assert "call_id" in problem.message
    wrong = Problem(Code.INVALID_ARGUMENT, "x", (FieldViolation("limits[0]", "is odd"),))
    desk.found = Refused(wrong)
    assert asyncio.run(desk.run("replay", duration=60.0)) == wrong


def test_a_fault_of_ours_ends_the_command_and_nothing_else(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.found = ZeroDivisionError("secret")
    problem = asyncio.run(desk.run("explain", argument="a@b"))
    assert problem == Problem(Code.INTERNAL, "a fault of the agent: ZeroDivisionError")
    assert desk.log.faults == 1


def test_drain_begins_after_its_answer(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert asyncio.run(desk.run("drain")) is None
    assert (desk.drained, len(desk.answers)) == (1, 1)


def test_a_tail_shows_what_is_decided_from_now_on_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "TAIL_EVERY", 0.01)

    async def main() -> None:
        desk, screening = Desk(tmp_path), Screening(policy())
        desk.tail.put(screen(screening, invite(call_id="before")))
        running = asyncio.create_task(desk.run("tail", duration=0.3))
        await until(lambda: bool(desk.tail._followers))
        for n in range(3):
            desk.tail.put(screen(screening, invite(call_id=f"c{n}")))
        assert await running is None
        assert [one["call_id"] for one in desk.said()] == ["c0", "c1", "c2"]
        desk.tail.put(screen(screening, invite()))
        assert desk.tail._followers == []

    asyncio.run(main())


def test_a_tail_of_refusals_shows_no_allowed_calls_and_too_many_are_counted(tmp_path: Path) -> None:
    desk, screening = Desk(tmp_path), Screening(policy())
    decision = screen(screening, invite())
    refused, everything = desk.tail.follow(refused_only=True), desk.tail.follow(refused_only=False)
    for _ in range(TAIL_KEPT + 7):
        desk.tail.put(decision)
    assert refused.take() == []
    shown = [json.loads(text) for text in everything.take()]
    assert (len(shown), shown[-1]) == (TAIL_KEPT + 1, {"not_shown": 7})
    assert everything.take() == []


def test_only_so_many_follow_at_a_time(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for _ in range(TAILS_MAX):
        desk.tail.follow(refused_only=False)
    problem = asyncio.run(desk.run("tail", duration=1.0))
    assert problem is not None
    assert "follow this agent's calls already" in problem.message


def test_a_session_that_ends_takes_its_tail_along(tmp_path: Path) -> None:
    async def main() -> None:
        desk = Desk(tmp_path)
        running = asyncio.create_task(desk.commands.run(Command("1", "tail", None, duration=60.0), desk.send))
        await until(lambda: bool(desk.tail._followers))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert desk.tail._followers == []

    asyncio.run(main())
