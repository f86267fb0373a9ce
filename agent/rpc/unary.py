"""A call of one message and one answer, which may have to be waited for."""

import asyncio
from collections.abc import Awaitable, Callable

from agent.rpc.call import Call
from agent.rpc.status import RpcError, Status

Answer = Callable[[Call, bytes], bytes | Awaitable[bytes]]
"""The answer to a message, or what to wait for; raises RpcError, as that may."""


class Unary:
    """Answers in the turn in which the message came, where `answer` can."""

    __slots__ = ("_answer", "_call", "_message", "_on_over", "_task")

    def __init__(self, call: Call, answer: Answer, on_over: Callable[[], None] | None = None) -> None:
        self._call = call
        self._answer = answer
        self._on_over = on_over
        self._message: bytes | None = None
        self._task: asyncio.Task[None] | None = None

    def message(self, data: bytes) -> None:
        """Implements Conversation."""
        if self._message is not None:
            raise RpcError(Status.UNIMPLEMENTED, "one message is asked for, and more came")
        self._message = data

    def said_all(self) -> None:
        """Implements Conversation."""
        if self._message is None:
            raise RpcError(Status.UNIMPLEMENTED, "one message is asked for, and none came")
        answer = self._answer(self._call, self._message)
        if isinstance(answer, bytes):
            self._call.respond(answer)
        else:
            self._call.wait()
            self._task = asyncio.ensure_future(self._arrive(answer))

    def room(self) -> None:
        """Implements Conversation."""

    def over(self) -> None:
        """Implements Conversation."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        if self._on_over is not None:
            self._on_over()

    async def _arrive(self, answer: Awaitable[bytes]) -> None:
        try:
            message = await answer
        except Exception as error:
            self._call.fail(error)
        else:
            self._call.respond(message)
