"""Back-ups of a controller: made while it runs, put back into an empty folder. Copies files; blocks.

    DIR/state.db        the database on one snapshot, by SQLite's online back-up; or
    DIR/state.pgdump    by PostgreSQL's pg_dump
    DIR/archive/        the files of records that this snapshot names, DIR/artifacts/ those of lists
    DIR/authority/      the certificate of the authority; keys only where they were asked for
    DIR/backup.json     what it is, when it was made, what belongs to it; written last

What the database names is never changed, only made and removed: so a snapshot fits to files that are copied after it,
unless one was removed meanwhile (compaction, retention); then another snapshot is taken. A folder that holds an earlier
back-up gets what is new, and loses what is of no use. Knows nothing of what comes after: see controller/restoring.py.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, LiteralString

from agent.files import replace_file
from agent.model import ConfigError
from controller import dumping
from controller.authority import keys
from controller.config import Config

FORMAT: Final = 1
MANIFEST: Final = "backup.json"
STATE: Final = "state.db"
DUMP: Final = "state.pgdump"
KEYS: Final = ("ca.key", "ca-next.key", "artifact.key")
CERTIFICATE: Final = "ca.crt"
TRIES: Final = 5
"""Snapshots, before a disk on which files go all the time is given up on."""

PIECE: Final = 1 << 20
MANIFEST_MAX: Final = 64 << 20
PRIVATE: Final = 0o600

NAMED: Final[dict[str, LiteralString]] = {
    "archive": "SELECT path FROM files",
    "artifacts": "SELECT location FROM artifacts UNION SELECT location FROM artifact_deltas",
}
"""What finds the files that belong to the state, by the folder that they are in."""


class BackupError(Exception):
    """It cannot be made, or is none; the text says why."""


@dataclass(frozen=True, slots=True)
class Backup:
    """`at` is epoch seconds; `files`: path below the folder to bytes; `state` is the file with the database."""

    at: float
    controller: str
    state: str
    state_sha256: str
    keys: bool
    files: dict[str, int] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Bytes, without the database."""
        return sum(self.files.values())


def make_backup(config: Config, folder: Path, when: float, *, with_keys: bool) -> Backup:
    """All of it, durably. The controller may run. Raises BackupError, ConfigError, OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for _ in range(TRIES):
        state, named = _snapshot(config, folder)
        with contextlib.suppress(FileNotFoundError):  # gone since the snapshot: another one does not name it
            files = {
                f"{place}/{name}": _copy(source, folder / place / name)
                for place, name, source in _sources(named, config)
            }
            break
    else:
        raise BackupError(f"files went away during each of {TRIES} attempts: try again when less is going on")
    for name in [CERTIFICATE, *(KEYS if with_keys else ())]:
        path = keys.find(config.authority.directory, name)
        if path.exists():
            files[f"authority/{name}"] = _copy(path, folder / "authority" / name, again=True)
    name = DUMP if config.store.postgresql else STATE
    backup = Backup(when, config.controller.id, name, _sha256(state), with_keys, files)
    state.replace(folder / name)
    replace_file(folder / MANIFEST, [json.dumps(asdict(backup), indent=1).encode()], PRIVATE)
    _remove_others(folder, backup)
    return backup


def read_backup(folder: Path) -> Backup:
    """What this folder holds, after a look at every file. Raises BackupError, OSError."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            backup = Backup(**json.loads(file.read(MANIFEST_MAX)))
    except FileNotFoundError:
        raise BackupError(f"{folder} holds no back-up that was finished: there is no {MANIFEST}") from None
    except (ValueError, TypeError, RecursionError):
        raise BackupError(f"{folder / MANIFEST} is damaged") from None
    if backup.format != FORMAT:
        raise BackupError(f"{folder / MANIFEST} is of format {backup.format}; this release reads {FORMAT}")
    if backup.state not in (STATE, DUMP):
        raise BackupError(f"{folder / MANIFEST} is damaged")
    state = folder / backup.state
    if not state.is_file() or _sha256(state) != backup.state_sha256:
        raise BackupError(f"{state} is missing, or is not what was saved")
    for name, size in backup.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BackupError(f"{folder / MANIFEST} names a file beyond its folder: {name}")
        if not path.is_file() or path.stat().st_size != size:
            raise BackupError(f"{path} is missing, or is not what was saved")
    return backup


def check_empty(backup: Backup, config: Config) -> None:
    """Whether there is a place for it, and nothing in it. Raises BackupError, ConfigError."""
    if backup.state != (DUMP if config.store.postgresql else STATE):
        raise BackupError(f"this back-up has {backup.state}, of another kind of database than [store] names")
    if has_state(config):
        if config.store.postgresql:
            raise BackupError("the database of [store] holds the state of a controller: name an empty one")
        raise BackupError(f"{config.store.file} is there already: move it away first, it would be lost")


def lay_out(backup: Backup, folder: Path, config: Config) -> None:
    """Put it where this configuration keeps its state; the database last. Raises BackupError, OSError."""
    places = {
        "archive": config.archive.directory,
        "artifacts": config.artifacts.directory,
        "authority": config.authority.directory,
    }
    config.controller.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    config.authority.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in backup.files:
        place, _, rest = name.partition("/")
        if place == "authority" and (places[place] / rest).exists():
            continue  # what an operator has put there counts
        _copy(folder / name, places[place] / rest)
    if config.store.postgresql:
        with _translated():
            dumping.put_back(config.store, folder / DUMP)
        return
    temporary = config.store.file.with_name(f"{STATE}.restored")
    _copy(folder / STATE, temporary, again=True)
    temporary.chmod(PRIVATE)
    temporary.replace(config.store.file)


def has_state(config: Config) -> bool:
    """Whether there is a database of a controller already. Raises BackupError, ConfigError."""
    if not config.store.postgresql:
        return config.store.file.exists()
    with _translated():
        return dumping.holds_state(config.store)


# --- pieces


def _snapshot(config: Config, folder: Path) -> tuple[Path, dict[str, list[str]]]:
    """A copy of the database, and the files that it names, by their place. Raises BackupError, ConfigError."""
    made = folder / f"{DUMP if config.store.postgresql else STATE}.new"
    made.unlink(missing_ok=True)
    os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
    if config.store.postgresql:
        with _translated():
            return made, dumping.dump(config.store, made, NAMED)
    return made, _copied(config.store.file, made)


def _copied(source: Path, made: Path) -> dict[str, list[str]]:
    """In WAL mode nobody waits for who reads. Raises BackupError."""
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as database,
            contextlib.closing(sqlite3.connect(made)) as copy,
        ):
            database.backup(copy)  # all pages in one step: one snapshot
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, whole by itself
            found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found == "ok":
                return {place: [name for (name,) in copy.execute(sql)] for place, sql in NAMED.items()}
    except sqlite3.Error as error:
        raise BackupError(f"{source}: {error}") from None
    raise BackupError(f"{source} is damaged ({found}): this is no state to keep")


def _sources(named: dict[str, list[str]], config: Config) -> Iterator[tuple[str, str, Path]]:
    """Place, name and file of all that is to be copied; object storage has copies of its own."""
    for place, settings in (("archive", config.archive), ("artifacts", config.artifacts)):
        if not settings.url:
            yield from ((place, name, settings.directory / name) for name in named[place])


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except dumping.DumpError as error:
        raise BackupError(str(error)) from None


def _copy(source: Path, target: Path, *, again: bool = False) -> int:
    """Its size. A file that is there with this name and size is the same one, unless `again`."""
    size = source.stat().st_size
    if not again and target.is_file() and target.stat().st_size == size:
        return size
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, temporary)
    temporary.chmod(source.stat().st_mode & 0o777)
    descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(target)
    return size


def _remove_others(folder: Path, backup: Backup) -> None:
    """What an earlier back-up had and this one does not need. Keys are nobody's to remove but the operator's."""
    for place in ("archive", "artifacts"):
        for path in sorted((folder / place).rglob("*")) if (folder / place).is_dir() else ():
            if path.is_file() and str(path.relative_to(folder)) not in backup.files:
                path.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_keys(config: Config) -> None:
    """Whether what signs is here, which a back-up need not have. Raises ConfigError."""
    needed = ["artifact.key"] if config.authority.certificate is not None else ["ca.key", "artifact.key"]
    for name in needed:
        path = keys.find(config.authority.directory, name)
        if not path.exists():
            raise ConfigError(str(path), "is missing, and not in this back-up: put the key of the fleet there first")
