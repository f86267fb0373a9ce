"""What a controller does only while it leads: one look after the other at what the store shows, for as long as it runs.

Knows leadership and the loop, not what is looked at. Everything that a look remembers is in the store: killed between
any two lines and started again, here or elsewhere, it goes on from what is there. Each write names the term in which
this controller leads: that of an old leader is refused.
"""

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final

from agent.ops.log import Log
from controller.errors import Conflict, StaleEpoch, StoreError
from controller.model import Act, Term, Topic
from controller.store import Store

RUNNING_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 5.0
"""Between two looks while something runs, and while nothing does. Changes in the store are looked at at once."""

PAUSE_SECONDS: Final = 0.05
TROUBLE_SECONDS: Final = 1.0

TOPICS: Final = (Topic.AGENTS, Topic.POLICIES, Topic.ROLLOUTS)


class Leading(ABC):
    """Construction does nothing. `clock` is epoch seconds."""

    name: str

    def __init__(self, store: Store, log: Log, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._said = f"no {self.name} yet"
        self._trouble = ""
        self._looks = self._ended = 0

    @abstractmethod
    async def look(self, term: Term) -> bool:
        """One step: whatever the store shows that should be done now. Whether something runs.

        Raises StaleEpoch, Conflict (somebody changed it meanwhile: look again) and StoreError.
        """

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self, grace: float) -> None:  # noqa: ARG002  (a look takes no time, and the next leader repeats it)
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def health(self) -> tuple[bool, str]:
        """What it is at."""
        return not self._trouble, self._trouble or self._said

    def counters(self) -> Mapping[str, int]:
        """Counts since the start."""
        return {f"{self.name}_looks": self._looks, f"{self.name}_ended": self._ended}

    async def _run(self) -> None:
        while True:
            seen = await self._seen()
            term = self._store.leadership.term()
            if term is None:
                self._said = "another controller leads"
                await self._store.leadership.wait(None, IDLE_SECONDS)
                continue
            try:
                running = await self.look(term)
            except (StaleEpoch, Conflict) as error:
                self._log.info(f"a look at the {self.name} came to nothing", why=str(error))
                running = True
            except StoreError as error:
                self._trouble = f"the store does not answer: {error}"
                await asyncio.sleep(TROUBLE_SECONDS)
                continue
            except Exception as error:
                self._trouble = "a fault of the controller"
                self._log.fault(error, self.name)
                await asyncio.sleep(TROUBLE_SECONDS)
                continue
            self._trouble = ""
            await asyncio.sleep(PAUSE_SECONDS)
            await self._store.changes.wait(seen, RUNNING_SECONDS if running else IDLE_SECONDS)

    async def _seen(self) -> Mapping[Topic, int]:
        """What to wait beyond: only the topics that matter here."""
        with contextlib.suppress(StoreError):
            seen = await self._store.changes.seen()
            return {topic: seen[topic] if topic in TOPICS else 1 << 62 for topic in Topic}
        return {}

    def _act(self, action: str, **detail: Any) -> Act:
        return Act(f"controller:{self._store.controller_id}", action, detail)
