"""What the agent and the helper that upgrades it tell each other, as small files. Knows neither apt nor the controller.

The agent has no privilege: it can only leave a request, which says nothing but which version of our own package. The
helper is root's (sbc-edge-agent-upgrade.service): it believes nothing of a request that is not checked here, and
writes what came of it where the agent can read and not write. An edge: reads and writes files.
"""

import contextlib
import json
import os
import re
import stat
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from agent.files import replace_file

VERSION: Final = re.compile(r"[0-9][A-Za-z0-9.+~-]{0,63}", re.ASCII)
"""Of a package of ours (deb-version(7), without an epoch): nothing that apt-get could take for an option or a path."""

ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)

FILE_MAX: Final = 16 << 10
WHY_MAX: Final = 1000
"""Characters that are kept of a reason; what apt says can be long."""

FRESH_SECONDS: Final = 600.0
"""How long a request waits for the helper: one that lay there while the host was off is not carried out."""

SOAK_SECONDS: Final = 60.0
SOAK_MAX: Final = 3600.0


class State(StrEnum):
    """Of an upgrade on this host."""

    PREPARING = "preparing"  # nothing was changed yet
    UNDERWAY = "underway"
    DONE = "done"
    RETURNED = "returned"  # the version before is in force again
    REFUSED = "refused"  # nothing was changed
    FAILED = "failed"  # neither could be put in force: somebody must look


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files are, as the units of the package have them."""

    asked: Path = Path("/var/lib/sbc-edge-agent/upgrade-request.json")
    """By the agent. Root may take it away, and trusts nothing in it."""
    told: Path = Path("/var/lib/sbc-edge-agent-upgrade/request.json")
    """By root, with `sbc-agent upgrade`."""
    outcome: Path = Path("/var/lib/sbc-edge-agent-upgrade/outcome.json")
    underway: Path = Path("/var/lib/sbc-edge-agent-upgrade/underway.json")
    """There as long as an upgrade is: found at a start, the one before was cut off."""
    cache: Path = Path("/var/cache/sbc-edge-agent")
    """Packages of the version in force and of the one before it: the way back needs no network."""
    source: Path = Path("/etc/apt/sources.list.d/sbc-edge-agent.sources")
    enabled: Path = Path("/etc/systemd/system/paths.target.wants/sbc-edge-agent-upgrade.path")
    """What `systemctl enable` makes: without it nothing that the agent asks is carried out."""

    def is_enabled(self) -> bool:
        """Whether the administrator lets the controller upgrade this host."""
        return self.enabled.is_symlink()


@dataclass(frozen=True, slots=True)
class Request:
    """`id`: the same is carried out once. `expires_at` is epoch seconds. `soak`: how long it must work well."""

    id: str
    version: str
    expires_at: float
    soak: float = SOAK_SECONDS


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far an upgrade came. `before` is the version that it began with; `at` epoch seconds."""

    id: str
    version: str
    before: str
    state: State
    why: str
    at: float


def write_request(path: Path, request: Request) -> None:
    """Raises OSError."""
    replace_file(path, [json.dumps(asdict(request)).encode()], 0o600)


def take_request(path: Path, owner: int) -> Request | None:
    """The request, which is gone from the disk then; None: there is none.

    `owner` is the user whose file it must be. Raises ValueError for one that is not as it must be, and OSError when it
    cannot be removed.
    """
    try:
        data = _read(path, owner)
    except FileNotFoundError:
        return None
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    return _request(_json(data))


def write_outcome(path: Path, outcome: Outcome) -> None:
    """For everybody to read. Raises OSError."""
    replace_file(path, [json.dumps(asdict(outcome)).encode()], 0o644)


def read_outcome(path: Path) -> Outcome | None:
    """None if there is none, or none that can be understood: a later release may have written it."""
    try:
        value = _json(_read(path, None))
        return Outcome(
            id=_text(value, "id"),
            version=_text(value, "version"),
            before=_text(value, "before"),
            state=State(_text(value, "state")),
            why=_text(value, "why")[:WHY_MAX],
            at=_number(value, "at"),
        )
    except (OSError, ValueError):
        return None


def check_version(version: str) -> str:
    """Raises ValueError for what is no version of a package of ours."""
    if not VERSION.fullmatch(version):
        raise ValueError(f"version: {version[:64]!r} is none")
    return version


def _request(value: dict[str, Any]) -> Request:
    if not ID.fullmatch(found := _text(value, "id")):
        raise ValueError("id: is none")
    soak = _number(value, "soak") if "soak" in value else SOAK_SECONDS
    if not 1 <= soak <= SOAK_MAX:
        raise ValueError(f"soak: must be from 1 to {SOAK_MAX:g} s")
    return Request(found, check_version(_text(value, "version")), _number(value, "expires_at"), soak)


def _read(path: Path, owner: int | None) -> bytes:
    """A small regular file, no link and no pipe, of this owner: the folder may be a stranger's."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123  (a descriptor, not a path)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("is no regular file")
        if owner is not None and found.st_uid != owner:
            raise ValueError(f"is of user {found.st_uid}, not {owner}")
        data = file.read(FILE_MAX + 1)
    if len(data) > FILE_MAX:
        raise ValueError(f"is larger than {FILE_MAX} bytes")
    return data


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")
    return value


def _text(value: dict[str, Any], key: str) -> str:
    found = value.get(key)
    if not isinstance(found, str):
        raise ValueError(f"{key}: must be text")
    return found


def _number(value: dict[str, Any], key: str) -> float:
    found = value.get(key)
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise ValueError(f"{key}: must be a number")
    try:
        return float(found)
    except OverflowError:
        raise ValueError(f"{key}: is too large") from None
