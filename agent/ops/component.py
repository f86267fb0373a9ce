"""What the running parts of the daemon have in common: a name, a health, counters, a start and an end.

Knows no part. Status, metrics and the composition root are written against these protocols, so that a new part
needs no new line in any of them.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


class Component(Protocol):
    """A part that reports on itself. Both questions are answered at once, from memory."""

    @property
    def name(self) -> str:
        """One word: "hook", "redirect", "spool"."""
        ...

    def health(self) -> tuple[bool, str]:
        """Whether it does its work, and how things are in words: (True, "12 clients, 3 requests in flight")."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Counts since its start, under names that begin with its own: "hook_requests", "spool_dropped_records"."""
        ...


class Server(Component, Protocol):
    """A part that runs. Constructing it does nothing."""

    async def start(self) -> None:
        """Begin. Raises OSError or ConfigError if it cannot."""
        ...

    async def stop(self, grace: float) -> None:
        """Take nothing new, finish what is in flight within `grace` seconds, then let go of everything."""
        ...


@runtime_checkable
class Reloadable(Protocol):
    """A part that reads its files again on SIGHUP."""

    async def reload(self) -> None:
        """Read them. Raises ConfigError, and goes on with what it had."""
        ...
