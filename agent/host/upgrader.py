"""Puts another version of the agent in force on this host, looks whether it does its work, and goes back if not.

Knows the order of things and how to judge; what does them is a `Host` (agent/host/apt.py is the real one). Runs as root
beside the agent, whose files it replaces: everything that it needs is imported before it begins.

    asked --not fresh, not ours, no room, no way back--> refused         (nothing was changed)
    asked --> underway --installed, well for `soak` seconds--> done
                       --not--> the version before, and well--> returned
                                                     --not--> failed
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from agent.host.upgrade_files import WHY_MAX, Outcome, Request, State

START_SECONDS: Final = 120.0
"""That a version may take until all that worked before works again: lists are read, the controller is looked for."""

LOOK_SECONDS: Final = 2.0
RESTARTS_MAX: Final = 2
"""Of a version that crashes: more are not waited for."""

ROOM: Final = 64 << 20
"""Bytes that stay free wherever something is written."""


class HostError(Exception):
    """Something could not be done; for people."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of a version: to fetch, and installed."""

    fetched: int
    installed: int


@dataclass(frozen=True, slots=True)
class Look:
    """How the agent is. `running`: its service is meant to be up and is. `ill`: parts that are not well, and why."""

    running: bool
    failed: bool = False
    restarts: int = 0
    process: int = 0
    version: str = ""
    ill: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""


class Host(Protocol):
    """What can be done here. Every method raises HostError."""

    def installed(self) -> str:
        """The version in force."""
        ...

    def is_newer(self, version: str, than: str) -> bool:
        """As dpkg compares them."""
        ...

    def refresh(self) -> None:
        """Read what the signed repository has."""
        ...

    def size(self, version: str) -> Size:
        """Of what the repository has."""
        ...

    def short_of(self, size: Size) -> str:
        """Where there is too little room for it; "" nowhere."""
        ...

    def kept(self, version: str) -> Sequence[Path]:
        """The packages of this version that were fetched before; none, if one of them is missing."""
        ...

    def fetch(self, version: str) -> Sequence[Path]:
        """The same from the repository, which vouches for them."""
        ...

    def size_of(self, packages: Sequence[Path]) -> Size:
        """Of packages that are here."""
        ...

    def check(self, packages: Sequence[Path]) -> None:
        """Whether they can be installed, and nothing but ours would change."""
        ...

    def install(self, packages: Sequence[Path]) -> None:
        """Put them in force; the service starts again if it ran."""
        ...

    def repair(self) -> None:
        """Finish what was cut off in the middle."""
        ...

    def keep_only(self, versions: Sequence[str]) -> None:
        """Forget packages of others."""
        ...

    def config_fault(self) -> str:
        """What is wrong with the configuration by the version in force; "" nothing, or there is none."""
        ...

    def look(self) -> Look:
        """How the agent is now. Never raises."""
        ...

    def pause(self, seconds: float) -> float:
        """Wait, 0 or more; the monotonic time then."""
        ...


@dataclass(slots=True)
class Upgrader:
    """`tell` keeps the outcome as it becomes known; `say` is the log. `clock` is epoch seconds."""

    host: Host
    tell: Callable[[Outcome], None]
    say: Callable[[str], None]
    clock: Callable[[], float]

    def carry_out(self, request: Request, last: Outcome | None, *, by_root: bool) -> Outcome:
        """All of it. `last` is how the upgrade before ended."""
        host = self.host
        try:
            before = host.installed()
        except HostError as error:
            return self._tell(request, "", State.REFUSED, str(error))
        try:
            if self.clock() > request.expires_at:
                raise HostError("the request came too late")
            if request.version == before:
                return self._tell(request, before, State.DONE, "it was in force already")
            if not by_root:
                self._is_allowed(request.version, before, last)
            self._tell(request, before, State.PREPARING, "")
            new, old = self._prepare(request, before)
        except HostError as error:
            return self._tell(request, before, State.REFUSED, str(error))
        was, fault = host.look(), host.config_fault()
        self._tell(request, before, State.UNDERWAY, f"from {before}")
        try:
            host.install(new)
            why = self._worse(request.version, was, fault, request.soak)
        except HostError as error:
            why = str(error)
        if not why:
            host.keep_only((request.version, before))
            return self._tell(request, before, State.DONE, "" if was.running else "the service was not running")
        return self._go_back(request, before, old, was, fault, why)

    def resume(self, request: Request, before: str) -> Outcome:
        """After one that was cut off (power, a kill): whatever state that left, the version before comes back."""
        why = "it was cut off in the middle"
        old = self.host.kept(before)
        if not old:
            return self._tell(request, before, State.FAILED, f"{why}, and {before} is not here any more")
        # Nobody knows how it was: what is not well now may have been so before.
        was = self.host.look()
        return self._go_back(request, before, old, was, "unknown", why)

    def _is_allowed(self, version: str, before: str, last: Outcome | None) -> None:
        """From afar there is no way to an old version with known faults but the one that was just left."""
        left = last.before if last is not None and last.state is State.DONE and last.version == before else ""
        if version != left and not self.host.is_newer(version, before):
            raise HostError(
                f"{version} is older than {before} and not what was in force before it: to be done on the host"
            )

    def _prepare(self, request: Request, before: str) -> tuple[Sequence[Path], Sequence[Path]]:
        """Both versions on the disk, and sure to fit, before anything is changed."""
        host = self.host
        new, old = host.kept(request.version), host.kept(before)
        if not (new and old):
            host.refresh()
        if not new:
            self._has_room(host.size(request.version))
            new = host.fetch(request.version)
        if not old:
            try:
                old = host.fetch(before)
            except HostError as error:
                raise HostError(f"there would be no way back to {before}: {error}") from None
        self._has_room(host.size_of(new))
        host.check(new)
        return new, old

    def _has_room(self, size: Size) -> None:
        if short := self.host.short_of(size):
            raise HostError(f"too little room on the disk: {short}")

    def _worse(self, version: str, was: Look, fault: str, soak: float) -> str:
        """Why the version in force is worse than what `was` was; "" it is not, for `soak` seconds on end."""
        host = self.host
        if not fault and (found := host.config_fault()):
            return f"it does not take the configuration: {found}"
        if not was.running:
            return ""
        now = host.pause(0.0)
        deadline, well_since, process = now + START_SECONDS + soak, now, 0
        while True:
            look = host.look()
            why = _why_not(look, version, was)
            if look.failed or look.restarts > RESTARTS_MAX:
                return why
            if why or look.process != process:
                well_since, process = now, look.process
            elif now - well_since >= soak:
                return ""
            if now >= deadline:
                return why or "it is not well for long enough"
            now = host.pause(LOOK_SECONDS)

    def _go_back(self, request: Request, before: str, old: Sequence[Path], was: Look, fault: str, why: str) -> Outcome:
        self.say(f"{request.version} is taken back: {why}")
        self._tell(request, before, State.UNDERWAY, f"back to {before}: {why}")
        try:
            self.host.repair()
            self.host.install(old)
            still = self._worse(before, was, fault, min(request.soak, LOOK_SECONDS))
        except HostError as error:
            still = str(error)
        if still:
            return self._tell(request, before, State.FAILED, f"{why}; {before} is not well either: {still}")
        return self._tell(request, before, State.RETURNED, why)

    def _tell(self, request: Request, before: str, state: State, why: str) -> Outcome:
        outcome = Outcome(request.id, request.version, before, state, why[:WHY_MAX], self.clock())
        self.say(f"{request.version}: {state}" + (f", {why}" if why else ""))
        self.tell(outcome)
        return outcome


def _why_not(look: Look, version: str, was: Look) -> str:
    if not look.running:
        return f"it does not run: {look.trouble}"
    if look.trouble:
        return look.trouble
    if look.version != version:
        return f"version {look.version} runs"
    ill = [f"{part} is not well: {why}" for part, why in sorted(look.ill.items()) if part not in was.ill]
    return "; ".join(ill)
