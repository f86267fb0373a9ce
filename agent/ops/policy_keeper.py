"""Replaces the policy in force: whole, or not at all. Knows where it is read from; what is right is decided by loading.

A policy is read, its lists are opened and it is compiled beside the event loop, in a thread; what changes here is one
assignment. An error leaves everything as it was, and is kept for whoever asks.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from agent.loading import load_policy, open_policy
from agent.model import ConfigError
from agent.ops.log import Log
from agent.ops.readings import PolicyChanges
from agent.policy.document import from_toml
from agent.policy.policy import Policy
from agent.service import Service


class PolicyKeeper:
    """One change at a time, in the order in which they were asked for."""

    def __init__(self, service: Service, file: Path, changes: PolicyChanges, log: Log) -> None:
        self._service = service
        self._file = file
        self._changes = changes
        self._log = log
        self._turn = asyncio.Lock()
        self.managed: Policy | None = None
        """What a controller has put into force; a reload comes back to it. None: the file decides."""

    async def reload(self) -> Policy:
        """Read the configured file again, or come back to what the controller gave.

        Raises ConfigError or ConfigErrors, and then nothing has changed.
        """
        if (managed := self.managed) is not None:
            return await self._change(lambda: managed, "controller")
        return await self._change(lambda: load_policy(self._file), str(self._file))

    async def apply(self, text: str) -> Policy:
        """Decide by this document until the next reload or restart; the file stays as it is.

        Its lists are looked for in the folder of the configured file. Raises like `reload`.
        """
        return await self._change(lambda: open_policy(from_toml(text), self._file.parent), "admin socket")

    async def take(self, policy: Policy, *, managed: bool) -> None:
        """Decide by this one, which is compiled already. `managed`: it is a controller's."""
        await self._change(lambda: policy, "controller")
        self.managed = policy if managed else None

    async def _change(self, load: Callable[[], Policy], source: str) -> Policy:
        async with self._turn:
            try:
                policy = await asyncio.to_thread(load)
                self._service.screening.swap(policy)
            except ConfigError as error:
                self._rejected(str(error), source)
                raise
            except Exception as error:
                self._log.fault(error, "policy")
                self._rejected(f"fault: {error}", source)
                raise
        self._changes.applied += 1
        self._changes.last_error = ""
        self._log.info("policy in force", generation=policy.generation, name=policy.name, source=source)
        return policy

    def _rejected(self, why: str, source: str) -> None:
        self._changes.rejected += 1
        self._changes.last_error = why
        self._log.error(
            "policy refused, the old one stays", error=why, source=source, generation=self._service.policy.generation
        )
