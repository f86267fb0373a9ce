"""The life of the process: its parts (agent.parts) are started, run, reloaded, and stopped in reverse. When one fails:

- configuration or policy wrong at the start: exit 78 (EX_CONFIG), with every error; systemd does not try again, and
  the SBC lets calls pass. On a reload the old policy stays.
- a way in (hook, redirect) cannot start: the others run, it is tried again. If none can: exit 1, systemd tries again.
- metrics, admin or records cannot start: calls are screened without them, they are tried again, `health` says why.
- identity cannot start (no trust list, no key): calls are neither verified nor signed, and `health` says why.
- what a process before this one counted is damaged, or nowhere: it counts from nothing, as a first start does.
- no controller: the last known good policy of the disk decides, at the start and for as long as it takes.
- a fault in a timer or a signal's work: counted, logged once per kind, and life goes on.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from agent.config import Config
from agent.control.steps import Standing
from agent.model import ConfigError
from agent.ops.component import Reloadable
from agent.ops.log import Log
from agent.ops.notify import Notifier
from agent.ops.pulse import BEAT_SECONDS, Pulse
from agent.ops.supervision import stop_all
from agent.parts import Parts, build_parts
from agent.restart.keeper import find_earlier

OK: Final = 0
NO_WAY_IN: Final = 1
EX_CONFIG: Final = 78
"""sysexits.h: what the operator wrote is wrong. The unit's RestartPreventExitStatus."""

FLUSH_SECONDS: Final = 2.0
"""That records have to reach the disk even when the end is hastened. A disk that is well takes some milliseconds."""

LOOKERS_SECONDS: Final = 1.0
"""That whoever looks at metrics or status has to get his last answer."""

SWITCH_SECONDS: Final = 0.0005
"""How long a thread keeps the interpreter while the event loop wants it. Of Python's 5 ms, every call that comes while
a policy is read or records are written would wait 5 ms: measured, 0.75 ms with this."""


class Daemon:
    """Runs until it is told to end. `run` once."""

    def __init__(
        self,
        config: Config,
        standing: Standing,
        log: Log,
        notifier: Notifier,
        environment: Mapping[str, str],
    ) -> None:
        self._config = config
        self._standing = standing
        self._log = log
        self._notifier = notifier
        self._environment = environment
        self._ending = asyncio.Event()
        self._hasten = asyncio.Event()
        self._timers: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Start, serve, drain. Returns the exit code of the process."""
        earlier = find_earlier(self._config.restart, self._environment, self._log)
        kept_in = self._config.restart.place(self._environment)
        parts = build_parts(self._config, self._standing, self._log, self.end, earlier, kept_in)
        del earlier  # which is as large as all that was counted
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: self._in_background(self._reload(parts), "reload"))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end)
        started = await self._start(parts)
        if started:
            await self._ending.wait()
        await self._stop(parts)
        return OK if started else NO_WAY_IN

    def end(self) -> None:
        """Begin to end; the second time, at once."""
        if self._ending.is_set():
            self._hasten.set()
        self._ending.set()

    async def _start(self, parts: Parts) -> bool:
        """Whether there is a way in for calls."""
        for part in parts.in_order():
            await part.start()
        if not any(part.running for part in parts.ways_in):
            self._log.error("no way in for calls could start", errors=[p.health()[1] for p in parts.ways_in])
            return False
        pulse = Pulse(parts.readings, self._notifier, lambda: _summary(parts), time.monotonic())
        pulse.begin()
        self._every(BEAT_SECONDS, lambda: pulse.beat(time.monotonic(), time.time()), "pulse")
        if self._notifier.watchdog_seconds:
            self._every(self._notifier.watchdog_seconds, self._notifier.alive, "watchdog")
        self._notifier.ready(_summary(parts))
        self._log.info(
            "ready",
            version=parts.readings.version,
            policy_generation=parts.service.policy.generation,
            components={part.name: part.health()[1] for part in parts.in_order()},
        )
        return True

    async def _stop(self, parts: Parts) -> None:
        grace = self._config.shutdown.grace
        parts.service.draining = True
        self._notifier.stopping("draining")
        self._log.info("draining", grace_seconds=grace)
        await stop_all(parts.ways_in, grace, self._hasten, self._log)
        patience = FLUSH_SECONDS if self._hasten.is_set() else max(grace, FLUSH_SECONDS)
        await stop_all(parts.kept, patience, self._hasten, self._log)
        await stop_all(parts.beside, min(grace, LOOKERS_SECONDS), self._hasten, self._log)
        await stop_all(parts.records, patience, asyncio.Event(), self._log)  # what is decided is not lost by haste
        await stop_all([*parts.fleet, *parts.shares], min(grace, FLUSH_SECONDS), self._hasten, self._log)
        await stop_all(parts.around, min(grace, LOOKERS_SECONDS), self._hasten, self._log)
        for timer in self._timers:
            timer.cancel()
        tally = parts.service.tally
        self._log.info("stopped", attempts=tally.attempts, faults=self._log.faults)

    async def _reload(self, parts: Parts) -> None:
        self._notifier.reloading()
        try:
            with contextlib.suppress(ConfigError):  # the keeper has told the log, and whoever asks for the status
                await parts.keeper.reload()
            for part in parts.beside:
                if part.running and isinstance(part.server, Reloadable):
                    await part.server.reload()
        except ConfigError as error:
            self._log.error("what signs calls is as it was", error=f"signing.{error}")
        finally:
            self._notifier.ready(_summary(parts))

    def _every(self, seconds: float, action: Callable[[], None], name: str) -> None:
        """Call `action` every so many seconds until the end; a fault of it does not end it."""

        async def repeat() -> None:
            while True:
                try:
                    action()
                except Exception as error:  # a timer that dies is worse than a call of it that fails
                    self._log.fault(error, name)
                await asyncio.sleep(seconds)

        self._keep(asyncio.create_task(repeat(), name=name))

    def _in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # nobody awaits what a signal begins
                self._log.fault(error, name)

        self._keep(asyncio.create_task(guarded(), name=name))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._timers.add(task)
        task.add_done_callback(self._timers.discard)


def run_daemon(config: Config, standing: Standing, log: Log, environment: Mapping[str, str]) -> int:
    """Run until SIGTERM or until drained; returns the exit code. `environment` may hold NOTIFY_SOCKET."""

    sys.setswitchinterval(SWITCH_SECONDS)

    async def main() -> int:
        return await Daemon(config, standing, log, Notifier(environment), environment).run()

    return asyncio.run(main())


def _summary(parts: Parts) -> str:
    """One line for `systemctl status`."""
    policy = parts.service.policy
    ill = [part.name for part in parts.in_order() if not part.health()[0]]
    trouble = f"; not well: {', '.join(ill)}" if ill else ""
    error = "; the last policy offered was refused" if parts.readings.changes.last_error else ""
    return f"screening by policy generation {policy.generation}{trouble}{error}"
