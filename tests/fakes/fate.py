"""A process that kills itself with SIGKILL before a step of its work, and says at which it did."""

import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any


class Fate:
    """Dies before the so-manieth `step`. `deathbed` is a file that then holds the step."""

    def __init__(self, step: str, occurrence: int = 1, deathbed: Path | None = None) -> None:
        self.step = step
        self.occurrence = occurrence
        self._deathbed = deathbed
        self._counts: Counter[str] = Counter()

    def comes(self, step: str) -> None:
        """The process is before this step."""
        self._counts[step] += 1
        if step == self.step and self._counts[step] >= self.occurrence:
            if self._deathbed is not None:
                self._deathbed.write_text(step)
            os.kill(os.getpid(), signal.SIGKILL)

    def is_next(self, step: str) -> bool:
        """Whether it would die if this step came."""
        return step == self.step and self._counts[step] + 1 >= self.occurrence

    def before(self, owner: Any, name: str, step: str) -> None:
        """From now on, whenever this is called."""
        method = getattr(owner, name)

        def fated(*arguments: Any, **named: Any) -> Any:
            self.comes(step)
            return method(*arguments, **named)

        setattr(owner, name, fated)

    def after(self, owner: Any, name: str, step: str) -> None:
        """Between the end of this, a coroutine or not, and whoever waits for it."""
        method: Callable[..., Any] = getattr(owner, name)

        async def later(outcome: Awaitable[Any]) -> Any:
            result = await outcome
            self.comes(step)
            return result

        def fated(*arguments: Any, **named: Any) -> Any:
            outcome = method(*arguments, **named)
            if isinstance(outcome, Awaitable):
                return later(outcome)
            self.comes(step)
            return outcome

        setattr(owner, name, fated)
