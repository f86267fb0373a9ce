"""What a controller may do to the version of this agent: ask a helper of the host for another one, and hear what came.

The agent has no privilege and never replaces itself: it leaves a request (agent/host/upgrade_files.py), which a unit
of systemd finds that the host's administrator has enabled, or not. An edge: reads and writes small files. What is asked
for ends this process, so what counts is in files.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from agent.control.messages import UPGRADE, Phase, UpgradeReport
from agent.host.upgrade_files import (
    FRESH_SECONDS,
    ID,
    SOAK_MAX,
    SOAK_SECONDS,
    Outcome,
    Places,
    Request,
    State,
    check_version,
    read_outcome,
    write_request,
)
from agent.ops.log import Log

LOOK_SECONDS: Final = 1.0

BY_FLEET: Final = "fleet-"
"""Begins the id of a request that a controller has asked for; others are of the host's administrator."""

BEGIN_SECONDS: Final = 60.0
"""For the helper to begin: it waits for nothing."""

PHASES: Final = {
    State.PREPARING: Phase.RECEIVED,
    State.UNDERWAY: Phase.APPLIED,
    State.DONE: Phase.CONFIRMED,
    State.RETURNED: Phase.ROLLED_BACK,
    State.REFUSED: Phase.REJECTED,
    State.FAILED: Phase.ROLLED_BACK,
}


class Upgrades:
    """`clock` is epoch seconds. Construction does nothing."""

    name: Final = "upgrade"

    def __init__(self, places: Places, log: Log, clock: Callable[[], float]) -> None:
        self._places = places
        self._log = log
        self._clock = clock
        self._asked: Request | None = None
        self._refused: UpgradeReport | None = None
        self._outcome: Outcome | None = None
        self._enabled = False
        self._task: asyncio.Task[None] | None = None

    # --- as a part of the daemon

    async def start(self) -> None:
        """Look how the last one went: it may be what has started this process."""
        await asyncio.to_thread(self._look)
        self._task = asyncio.create_task(self._run(), name="upgrade")

    async def stop(self, grace: float) -> None:  # noqa: ARG002  (there is nothing to finish)
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def health(self) -> tuple[bool, str]:
        """Not well where neither version could be put in force."""
        if (outcome := self._outcome) is not None and outcome.state is State.FAILED:
            return False, f"{outcome.version}: {outcome.why}"
        if outcome is not None:
            why = f", {outcome.why}" if outcome.why else ""
            return True, f"{outcome.before} to {outcome.version}: {outcome.state}{why}"
        return True, "the controller may ask for another version" if self._enabled else "not used"

    def counters(self) -> Mapping[str, int]:
        """None: what there is to count the controller counts."""
        return {}

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self._look)
            except Exception as error:  # whatever is on the disk: no part ends for it
                self._log.fault(error, "upgrade")

    def _look(self) -> None:
        self._enabled = self._places.is_enabled()
        self._outcome = read_outcome(self._places.outcome)

    # --- for the controller

    def capabilities(self) -> tuple[str, ...]:
        """What the host grants now."""
        return (UPGRADE,) if self._places.is_enabled() else ()

    async def ask(self, version: str, upgrade: str, soak: float) -> None:
        """Have the helper do it, unless it was asked for this before. Raises LookupError, saying why it cannot be."""
        known = [one.id for one in (self._asked, self._outcome) if one is not None]
        if (request_id := f"{BY_FLEET}{upgrade}") in known:
            return
        try:
            await self._request(request_id, version, soak)
        except LookupError as error:
            self._refused = UpgradeReport(upgrade, version, Phase.REJECTED, str(error.args[0]))
            raise

    async def _request(self, request_id: str, version: str, soak: float) -> None:
        if not self._places.is_enabled():
            raise LookupError("the administrator of the host does not let it: sbc-agent setup --upgrades on")
        try:
            check_version(version)
        except ValueError as error:
            raise LookupError(str(error)) from None
        if not ID.fullmatch(request_id):
            raise LookupError("upgrade: is no id of one")
        expires_at = self._clock() + FRESH_SECONDS
        request = Request(request_id, version, expires_at, min(max(soak, 1.0), SOAK_MAX) if soak else SOAK_SECONDS)
        try:
            await asyncio.to_thread(write_request, self._places.asked, request)
        except OSError as error:
            raise LookupError(f"the request cannot be written: {error.strerror}") from None
        self._asked, self._refused = request, None

    def report(self) -> UpgradeReport | None:
        """How far the last one came that a controller asked for."""
        if self._refused is not None:
            return self._refused
        asked, outcome = self._asked, self._outcome
        if asked is not None and (outcome is None or outcome.id != asked.id):
            waited = self._clock() - (asked.expires_at - FRESH_SECONDS)
            late = waited > BEGIN_SECONDS
            why = "the helper does not begin: systemctl status sbc-edge-agent-upgrade.path" if late else ""
            phase = Phase.REJECTED if late else Phase.RECEIVED
            return UpgradeReport(asked.id.removeprefix(BY_FLEET), asked.version, phase, why)
        if outcome is None or not outcome.id.startswith(BY_FLEET):
            return None
        return UpgradeReport(outcome.id.removeprefix(BY_FLEET), outcome.version, PHASES[outcome.state], outcome.why)
