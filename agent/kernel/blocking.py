"""From a refusal to a source that the kernel keeps away, where the policy says so (`block_source_seconds` of a limit).

Sees every decision, enforced or observed. Asks the guard beside calls and never waits for it; what it is asked at one
time is bounded, since whoever floods can forge addresses.
"""

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import Final

from agent.kernel.guard import Guard
from agent.model import Allow, Category
from agent.policy.policy import Mode, Policy
from agent.screening import Decision, Passed, RefusedCall

PENDING_MAX: Final = 64
"""Blocks that are on their way to the kernel; each takes a millisecond, and what comes too much comes again."""


class SourceBlocker:
    """A `service.RecordSink`. `on_failure` hears of what the kernel did not take."""

    def __init__(self, guard: Guard, on_failure: Callable[[Exception], None]) -> None:
        self.overflows = 0
        self._guard = guard
        self._on_failure = on_failure
        self._policy: Policy | None = None
        self._seconds: dict[str, float] = {}  # by limit
        self._pending: dict[str, asyncio.Task[None]] = {}  # by source

    def put(self, decision: Decision) -> None:
        """Block the source of a refused call, if its limit says so. Returns at once, never raises."""
        verdict = decision.verdict
        if isinstance(verdict.action, Allow) or verdict.category is not Category.LIMIT:
            return
        if decision.policy is not self._policy:
            self._take_up(decision.policy)
        seconds, source = self._seconds.get(verdict.rule, 0.0), decision.attempt.source
        if not seconds or source in self._pending:
            return
        if len(self._pending) >= PENDING_MAX:
            self.overflows += 1
            return
        self._pending[source] = asyncio.get_running_loop().create_task(self._block(source, seconds))

    def put_passed(self, calls: Sequence[Passed]) -> None:
        """Nothing: who is let pass is not blocked."""

    def put_refused(self, one: RefusedCall) -> None:
        """Nothing: only limits have a source blocked."""

    def _take_up(self, policy: Policy) -> None:
        self._policy = policy
        self._seconds = {spec.name: spec.block_source for spec in policy.limits if spec.rule.mode is Mode.ENFORCE}

    async def _block(self, source: str, seconds: float) -> None:
        try:
            await self._guard.block(ip_network(source), seconds)
        except Exception as error:  # the kernel's or ours: calls are decided all the same
            self._on_failure(error)
        finally:
            self._pending.pop(source, None)
