"""How the parts of the store are written: methods whose bodies are transactions, called as coroutines.

    class Limits(Part):
        @reads
        def get(self, tx: Connection, name: str) -> FleetLimit: ...

    await store.limits.get("international")

A body that changes something names the topics that it changes. Its transaction begins by counting these up, in one
order for all: who changes the same topic waits for the row until the other one has committed, on every database, and
so sees all of it. What waits for changes (changes.py) sees the new number. Changes that come by the thousand name no
topic and are written so that they need not wait.
"""

from collections.abc import Callable, Coroutine
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from controller.model import Topic
from controller.store.changes import Changes
from controller.store.engine import Engine

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Part")

Body = Callable[Concatenate[S, Connection, P], R]
Method = Callable[Concatenate[S, P], Coroutine[Any, Any, R]]


class Part:
    """What all parts have. Construction does nothing."""

    def __init__(self, engine: Engine, changes: Changes, controller_id: str) -> None:
        self._engine = engine
        self._changes = changes
        self._controller_id = controller_id


def reads(body: Body[S, P, R]) -> Method[S, P, R]:
    """Make a coroutine of a body that changes nothing."""

    async def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._engine.read(lambda tx: body(self, tx, *args, **kwargs))

    update_wrapper(method, body)
    return method


def writes(*topics: Topic) -> Callable[[Body[S, P, R]], Method[S, P, R]]:
    """Make a coroutine of a body that changes these topics."""

    def decorate(body: Body[S, P, R]) -> Method[S, P, R]:
        async def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            result = await self._engine.write(lambda tx: body(self, tx, *args, **kwargs), topics)
            if topics:
                self._changes.look()
            return result

        update_wrapper(method, body)
        return method

    return decorate
