"""What an operator may have this agent do from afar: a short list, each bounded. Knows no stream and no protobuf.

Everything else is done on the host. None of these changes a policy, reads a key or runs what somebody sends: an upgrade
names a version of our own package, and needs an administrator of the host who lets a helper of his do that.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from agent.control.messages import Code, Command, CommandAnswer, Problem
from agent.control.preparing import Refused
from agent.model import Allow
from agent.ops.log import Log
from agent.screening import Decision, Passed, RefusedCall, passed, refused

WORDS: Final = frozenset({"status", "explain", "tail", "drain", "diagnostics", "replay", "upgrade"})

PIECE_MAX: Final = 200 << 10
"""Bytes of JSON in one answer; the controller takes messages of 1 MiB."""

TAIL_MAX: Final = 3600.0
"""Seconds that a tail runs at most; who wants more asks again."""
TAIL_EVERY: Final = 0.25
TAIL_KEPT: Final = 500
"""Records that wait for the next piece: 2,000 a second reach the operator, the rest is counted."""
TAILS_MAX: Final = 4

CALL_ID_MAX: Final = 4096
WINDOW_MAX: Final = 86_400.0

Send = Callable[[CommandAnswer], Awaitable[None]]
Replay = Callable[[bytes, float], Awaitable[Sequence[str]]]
"""A serialised policy and how far back, seconds, to JSON objects. Raises Refused, LookupError."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the daemon lends to commands. `find` and `replay` raise LookupError, saying why there is no answer.

    So does `upgrade`, of a version, the id of an upgrade and its soak in seconds (0: as usual). It only asks for it;
    what comes of it is in health reports.
    """

    status: Callable[[], str]
    diagnostics: Callable[[], str]
    find: Callable[[str], Awaitable[Sequence[str]]]
    replay: Replay
    drain: Callable[[], None]
    upgrade: Callable[[str, str, float], Awaitable[object]]


class Tail:
    """A place for records: shows decisions to whoever follows them, and costs nothing when nobody does."""

    def __init__(self) -> None:
        self._followers: list[Follower] = []

    def put(self, decision: Decision) -> None:
        """Never waits and never raises."""
        for follower in self._followers:
            follower.put(decision)

    def put_passed(self, calls: Sequence[Passed]) -> None:
        """The same for calls that passed without a word."""
        if self._followers:
            for one in calls:
                self.put(passed(one))

    def put_refused(self, one: RefusedCall) -> None:
        """The same for a call that nothing but a list refused."""
        if self._followers:
            self.put(refused(one))

    def follow(self, *, refused_only: bool) -> "Follower":
        """From now on. Raises LookupError when too many do."""
        if len(self._followers) >= TAILS_MAX:
            raise LookupError(f"{TAILS_MAX} operators follow this agent's calls already")
        follower = Follower(refused_only=refused_only)
        self._followers.append(follower)
        return follower

    def leave(self, follower: "Follower") -> None:
        """Not any more."""
        self._followers.remove(follower)


class Follower:
    """One of them."""

    def __init__(self, *, refused_only: bool) -> None:
        self._refused_only = refused_only
        self._waiting: deque[Decision] = deque()
        self._dropped = 0

    def put(self, decision: Decision) -> None:
        if self._refused_only and isinstance(decision.verdict.action, Allow):
            return
        if len(self._waiting) < TAIL_KEPT:
            self._waiting.append(decision)
        else:
            self._dropped += 1

    def take(self) -> list[str]:
        """What has come since, as JSON."""
        found = [json.dumps(decision.record().as_dict()) for decision in self._waiting]
        self._waiting.clear()
        if self._dropped:
            found.append(json.dumps({"not_shown": self._dropped}))
            self._dropped = 0
        return found


class Commands:
    """Carries them out."""

    def __init__(self, abilities: Abilities, tail: Tail, log: Log) -> None:
        self._abilities = abilities
        self._tail = tail
        self._log = log

    async def run(self, command: Command, send: Send) -> None:
        """Until its last answer was given. Never raises but when it is cancelled."""
        problem: Problem | None = None
        try:
            await self._do(command, send)
        except Refused as error:
            problem = error.problem
        except LookupError as error:
            problem = Problem(Code.FAILED_PRECONDITION, str(error.args[0]))
        except Exception as error:  # an operator's question must not cost the session
            self._log.fault(error, f"command {command.word}")
            problem = Problem(Code.INTERNAL, f"a fault of the agent: {type(error).__name__}")
        await send(CommandAnswer(command.id, problem=problem, last=True))
        if command.word == "drain" and problem is None:
            self._abilities.drain()

    async def _do(self, command: Command, send: Send) -> None:
        self._log.info("command of the controller", word=command.word, id=command.id)
        abilities = self._abilities
        match command.word:
            case "status":
                await self._say(command, [abilities.status()], send)
            case "diagnostics":
                await self._say(command, [abilities.diagnostics()], send)
            case "explain":
                if not 0 < len(command.argument) <= CALL_ID_MAX:
                    raise LookupError("call_id: is missing or too long")
                await self._say(command, await abilities.find(command.argument), send)
            case "replay":
                window = min(command.duration, WINDOW_MAX)
                await self._say(command, await abilities.replay(command.policy, window), send)
            case "tail":
                await self._follow(command, send)
            case "upgrade":
                await abilities.upgrade(command.argument, command.upgrade, command.duration)
            case "drain":
                pass  # after its answer

    async def _follow(self, command: Command, send: Send) -> None:
        follower = self._tail.follow(refused_only=command.refused_only)
        try:
            async with asyncio.timeout(min(command.duration, TAIL_MAX)):
                while True:
                    await asyncio.sleep(TAIL_EVERY)
                    await self._say(command, follower.take(), send)
        except TimeoutError:
            await self._say(command, follower.take(), send)
        finally:
            self._tail.leave(follower)

    async def _say(self, command: Command, objects: Sequence[str], send: Send) -> None:
        """In pieces. An object that fits in none is left out, and counted."""
        piece: list[str] = []
        size = too_large = 0
        for text in objects:
            length = len(text.encode("utf-8", "replace"))
            if length > PIECE_MAX:
                too_large += 1
                continue
            if size + length > PIECE_MAX:
                await send(CommandAnswer(command.id, tuple(piece)))
                piece, size = [], 0
            piece.append(text)
            size += length
        if too_large:
            piece.append(json.dumps({"too_large": too_large}))
        if piece:
            await send(CommandAnswer(command.id, tuple(piece)))
