"""The real `Host` of the upgrader: apt-get, dpkg and systemctl, for packages of ours and from one signed repository.

Everything of apt that is not about ours is left alone: it has a state and a cache of its own here, and one source. An
edge, run as root; no argument of any program comes from elsewhere but versions that were checked.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from agent.host.unit import UNIT
from agent.host.upgrade_files import Places
from agent.host.upgrader import ROOM, HostError, Look, Size

PACKAGE: Final = "sbc-edge-agent"
OURS: Final = (PACKAGE, f"{PACKAGE}-kamailio")
"""Those that are installed go together: the second one wants the first to be of no lower version."""

COMMAND: Final = "/usr/bin/sbc-agent"
CONFIG: Final = Path("/etc/sbc-edge-agent/agent.toml")

REFRESH_SECONDS: Final = 300
FETCH_SECONDS: Final = 1800
INSTALL_SECONDS: Final = 900
ASK_SECONDS: Final = 30
WHOLE_SECONDS: Final = REFRESH_SECONDS + 2 * (FETCH_SECONDS + INSTALL_SECONDS) + 2 * 3600
LOCK_SECONDS: Final = 120
"""That another program may hold dpkg."""

ENVIRONMENT: Final = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "APT_LISTCHANGES_FRONTEND": "none",
    "NEEDRESTART_SUSPEND": "1",  # the SBC is not to be restarted for our sake
}

REFUSED_FIELDS: Final = ("trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure", "check-valid-until")
"""Of a source: what would have apt take packages that nobody has signed."""

LINES: Final = 5
"""Of what a program says, as a reason."""


class Apt:
    """`folder` is the helper's own, for root only to write."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._folder = places.outcome.parent
        self._names = [name for name in OURS if _status(name)]

    # --- what there is

    def installed(self) -> str:
        """See `Host`."""
        found = {_status(name) for name in self._names}
        if len(found) != 1:
            raise HostError(
                f"packages of ours have different versions: {', '.join(sorted(found))}" if found else "not installed"
            )
        return found.pop()

    def is_newer(self, version: str, than: str) -> bool:
        """See `Host`."""
        return _run(["dpkg", "--compare-versions", version, "gt", than], ASK_SECONDS).returncode == 0

    def kept(self, version: str) -> Sequence[Path]:
        """See `Host`."""
        found = [one for name in self._names if (one := self._package(name, version)) is not None]
        return found if len(found) == len(self._names) else []

    def kept_versions(self) -> list[str]:
        """That are on the disk."""
        names = (path.name.split("_") for path in self._places.cache.glob(f"{PACKAGE}_*.deb"))
        return [version for version in {parts[1] for parts in names} if self.kept(version)]

    def short_of(self, size: Size) -> str:
        """See `Host`."""
        needs = ((self._places.cache.parent, size.fetched), (Path("/usr"), size.installed), (Path("/var/lib/dpkg"), 0))
        by_disk: dict[int, tuple[Path, int]] = {}
        for path, wanted in needs:
            device = path.stat().st_dev
            first, sum_ = by_disk.get(device, (path, 0))
            by_disk[device] = (first, sum_ + wanted)
        for path, wanted in by_disk.values():
            free = shutil.disk_usage(path).free
            if free < wanted + ROOM:
                return f"{path} has {free >> 20} MiB, and {(wanted + ROOM) >> 20} MiB are needed"
        return ""

    # --- the repository

    def refresh(self) -> None:
        """See `Host`."""
        check_source(self._places.source)
        self._make_folders()
        self._run([*self._apt("apt-get"), "-q", "update"], REFRESH_SECONDS)

    def size(self, version: str) -> Size:
        """See `Host`."""
        sizes = [self._fields(f"{name}={version}") for name in self._names]
        return Size(sum(one["Size"] for one in sizes), sum(one["Installed-Size"] << 10 for one in sizes))

    def fetch(self, version: str) -> Sequence[Path]:
        """See `Host`."""
        check_source(self._places.source)
        self._make_folders()
        wanted = [f"{name}={version}" for name in self._names]
        self._run([*self._apt("apt-get"), "-q", "download", *wanted], FETCH_SECONDS, folder=self._places.cache)
        found = self.kept(version)
        if not found:
            raise HostError(f"apt-get has fetched {version}, and it is not there")
        return found

    def versions(self) -> list[str]:
        """That the repository has, newest first. Raises HostError."""
        said = self._run([*self._apt("apt-cache"), "madison", PACKAGE], ASK_SECONDS)
        return [columns[1].strip() for line in said.splitlines() if len(columns := line.split("|")) == 3]

    def newest(self) -> str:
        """Of them. Raises HostError."""
        if found := self.versions():
            return found[0]
        raise HostError("the repository has no package of ours")

    def _fields(self, wanted: str) -> dict[str, int]:
        said = self._run([*self._apt("apt-cache"), "show", "--no-all-versions", wanted], ASK_SECONDS)
        fields = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line and line[0] != " ")
        return {name: _whole(fields.get(name, "")) for name in ("Size", "Installed-Size")}

    def _apt(self, program: str) -> list[str]:
        """With a state of its own and one source; what the administrator has set besides (a proxy) holds."""
        options = {
            "Dir::Etc::sourcelist": self._places.source,
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": self._folder / "lists",
            "Dir::Cache": self._folder / "apt",
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::AllowWeakRepositories": "false",
            "Acquire::AllowDowngradeToInsecureRepositories": "false",
            "APT::Get::AllowUnauthenticated": "false",
            "APT::Update::Error-Mode": "any",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "30",
            "Acquire::https::Timeout": "30",
            "DPkg::Lock::Timeout": LOCK_SECONDS,
        }
        return [program, *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]

    def _make_folders(self) -> None:
        for folder in (self._folder / "lists" / "partial", self._folder / "apt" / "archives" / "partial"):
            folder.mkdir(parents=True, exist_ok=True)
        self._places.cache.mkdir(mode=0o755, exist_ok=True)

    # --- the packages

    def size_of(self, packages: Sequence[Path]) -> Size:
        """See `Host`."""
        kib = sum(_whole(self._run(["dpkg-deb", "-f", str(one), "Installed-Size"], ASK_SECONDS)) for one in packages)
        return Size(0, kib << 10)

    def check(self, packages: Sequence[Path]) -> None:
        """See `Host`."""
        said = self._run([*self._installing(), "-s", *map(str, packages)], ASK_SECONDS)
        changes = {words[1] for line in said.splitlines() if (words := line.split())[:1] in (["Inst"], ["Remv"])}
        if others := sorted(changes - set(self._names)):
            raise HostError(f"it would change other packages: {', '.join(others)}")

    def install(self, packages: Sequence[Path]) -> None:
        """See `Host`."""
        self._run([*self._installing(), *map(str, packages)], INSTALL_SECONDS)

    def repair(self) -> None:
        """See `Host`."""
        self._run(["dpkg", "--configure", "-a", "--force-confold"], INSTALL_SECONDS, checked=False)

    def keep_only(self, versions: Sequence[str]) -> None:
        """See `Host`."""
        wanted = {path for version in versions for path in self.kept(version)}
        for path in self._places.cache.glob("*.deb"):
            if path not in wanted:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _installing(self) -> list[str]:
        return [
            *self._apt("apt-get"),
            *("-q", "-y", "--no-remove", "--allow-downgrades", "--no-install-recommends"),
            *("-o", "Dpkg::Options::=--force-confold", "-o", "Dpkg::Use-Pty=0", "install"),
        ]

    def _package(self, name: str, version: str) -> Path | None:
        found = sorted(self._places.cache.glob(f"{name}_{version}_*.deb"))
        return found[0] if found else None

    # --- the agent

    def config_fault(self) -> str:
        """See `Host`."""
        if not CONFIG.exists():
            return ""
        try:
            done = _run([COMMAND, "run", "--check"], ASK_SECONDS)
        except HostError as error:
            return str(error)
        return "" if done.returncode == 0 else _last(done)

    def look(self) -> Look:
        """See `Host`."""
        try:
            shown = _run(["systemctl", "show", "-p", "ActiveState,NRestarts,MainPID,Result", UNIT], ASK_SECONDS)
            unit = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
            state = unit.get("ActiveState", "")
            numbers = {name: int(unit.get(name) or 0) for name in ("NRestarts", "MainPID")}
            if state not in ("active", "reloading"):
                trouble = f"{state}, {unit.get('Result', '')}"
                return Look(running=False, failed=state == "failed", restarts=numbers["NRestarts"], trouble=trouble)
            said = _run([COMMAND, "status", "--json"], ASK_SECONDS)
            return (
                _look_of(said.stdout, numbers)
                if said.returncode == 0 or said.stdout
                else Look(
                    running=True,
                    restarts=numbers["NRestarts"],
                    process=numbers["MainPID"],
                    trouble=f"does not say how it is: {_last(said)}",
                )
            )
        except (HostError, ValueError) as error:
            return Look(running=False, trouble=str(error))

    def pause(self, seconds: float) -> float:
        """See `Host`."""
        time.sleep(seconds)
        return time.monotonic()

    def _run(self, command: Sequence[str], seconds: float, *, folder: Path | None = None, checked: bool = True) -> str:
        done = _run(command, seconds, folder=folder)
        if checked and done.returncode:
            raise HostError(f"{command[0]}: {_last(done)}")
        return done.stdout


def check_source(path: Path) -> None:
    """Whether this file of apt's names repositories that must be signed. Raises HostError."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        words = "there is no repository to upgrade from: `sbc-agent setup --repository URL --key FILE` names one"
        raise HostError(f"{path}: {words}") from None
    except (OSError, ValueError) as error:
        raise HostError(f"{path}: cannot be read: {error}") from None
    names = {line.split(":", 1)[0].strip().lower() for line in text.splitlines() if ":" in line and line[:1] != "#"}
    if "signed-by" not in names:
        raise HostError(f"{path}: needs Signed-By: the key of the repository")
    if found := sorted(names & set(REFUSED_FIELDS)):
        raise HostError(f"{path}: {', '.join(found)} is not for a repository that hosts upgrade from by themselves")


def _look_of(text: str, numbers: Mapping[str, int]) -> Look:
    """Raises ValueError for what is no status."""
    status = json.loads(text)
    ill = {one["component"]: one.get("detail", "") for one in status.get("components", ()) if not one.get("healthy")}
    return Look(
        running=True,
        restarts=numbers["NRestarts"],
        process=numbers["MainPID"],
        version=str(status.get("version", "")),
        ill=ill,
    )


def start(service: str) -> None:
    """Run a service that ends by itself, to its end; how it went, it has written down. Raises HostError."""
    _run(["systemctl", "reset-failed", service], ASK_SECONDS)
    _run(["systemctl", "start", service], WHOLE_SECONDS)


def switch(unit: str, *, on: bool) -> None:
    """Enable and start it, or the contrary; what failed before is forgotten. Raises HostError."""
    _run(["systemctl", "reset-failed", unit, unit.replace(".path", ".service")], ASK_SECONDS)
    done = _run(["systemctl", "enable" if on else "disable", "--now", unit], ASK_SECONDS)
    if done.returncode:
        raise HostError(f"systemctl: {_last(done)}")


def _status(name: str) -> str:
    """The version that is installed, "" none."""
    done = _run(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", name], ASK_SECONDS)
    # Half of a version is one, too: it is to be replaced.
    state, _, version = done.stdout.partition(" ")
    return version if state not in ("", "not-installed", "config-files") else ""


def _run(command: Sequence[str], seconds: float, *, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Raises HostError when it cannot be run, or takes too long."""
    try:
        return subprocess.run(  # noqa: S603  (names of programs are ours, versions were checked; no shell)
            command, check=False, capture_output=True, text=True, errors="replace", timeout=seconds,
            env=ENVIRONMENT, cwd=folder or Path("/"), stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise HostError(f"{command[0]} has not finished within {seconds:g} s") from None
    except OSError as error:
        raise HostError(f"{command[0]} cannot be run: {os.strerror(error.errno or 0)}") from None


def _last(done: subprocess.CompletedProcess[str]) -> str:
    """What it said at the end."""
    said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return "; ".join(said[-LINES:]) or f"exit code {done.returncode}"


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0
