"""A control group with the limits of the agent's unit: version 2, or version 1 where the machine has that.

What systemd would set up for the service. Without the right to make one (not root, a container) there is none, and
whoever measures says so.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
UNIT: Final = ROOT / "systemd" / "sbc-edge-agent.service"
MOUNT: Final = Path("/sys/fs/cgroup")
PERIOD: Final = 100_000  # microseconds, as systemd's CPUQuotaPeriodSec
UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Limits:
    """Of one service: bytes, a share of a core, and its environment."""

    memory: int
    cores: float
    environment: dict[str, str]


def unit_limits(unit: Path = UNIT) -> Limits:
    """What the unit says. Raises KeyError if it says nothing."""
    said = dict(re.findall(r"^(\w+)=(.+)$", unit.read_text(), re.MULTILINE))
    memory = said["MemoryMax"]
    name, _, value = said["Environment"].partition("=")
    return Limits(int(memory[:-1]) * UNITS[memory[-1]], float(said["CPUQuota"].removesuffix("%")) / 100, {name: value})


@dataclass(frozen=True)
class Group:
    """Its folders, one for each hierarchy; none where there is no group."""

    folders: tuple[Path, ...]

    @property
    def memory(self) -> Path | None:
        """Where the kernel accounts for its memory."""
        return self.folders[0] if self.folders else None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What is started here belongs to the group, from its first page on."""
        homes = [_home(folder) for folder in self.folders]
        self._move(self.folders)
        try:
            yield
        finally:
            self._move(homes)

    @staticmethod
    def _move(folders: "tuple[Path, ...] | list[Path]") -> None:
        for folder in folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))


def _home(folder: Path) -> Path:
    """The group that this process is in, of the hierarchy that `folder` belongs to."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mounts = (
            [MOUNT] if not controllers and _is_unified() else [MOUNT / name for name in controllers.split(",") if name]
        )
        for mount in mounts:
            if folder.is_relative_to(mount):
                return mount / path.lstrip("/")
    raise OSError(f"{folder} is of no hierarchy that this process is in")


def _is_unified() -> bool:
    return (MOUNT / "cgroup.controllers").exists()


@contextmanager
def control_group(limits: Limits) -> Iterator[Group]:
    """A group with these limits, which is gone afterwards; an empty one where it cannot be made."""
    name = f"sbc-edge-bench-{os.getpid()}"
    quota = str(int(limits.cores * PERIOD))
    if _is_unified():
        wanted = [(MOUNT / name, {"memory.max": str(limits.memory), "cpu.max": f"{quota} {PERIOD}"})]
    else:
        wanted = [
            (MOUNT / "memory" / name, {"memory.limit_in_bytes": str(limits.memory)}),
            (MOUNT / "cpu" / name, {"cpu.cfs_period_us": str(PERIOD), "cpu.cfs_quota_us": quota}),
        ]
    made: list[Path] = []
    try:
        try:
            for folder, values in wanted:
                folder.mkdir()
                made.append(folder)
                for file, value in values.items():
                    (folder / file).write_text(value)
            group = Group(tuple(made))
        except OSError:
            group = Group(())
        yield group
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
