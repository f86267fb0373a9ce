"""A PostgreSQL server of the tests' own, from Debian's package: other folders, a Unix socket, no network, no root."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from signal import SIGQUIT, Signals
from typing import Final
from urllib.parse import quote, urlsplit

import psycopg

MISSING: Final = "no PostgreSQL server here: apt-get install postgresql"
PATIENCE: Final = 90.0
"""Seconds until it answers, or has ended: after a crash it looks at its files first, and the disk may be busy."""


def binaries() -> Path | None:
    """The folder with initdb and postgres of the newest release from 14 on, where there is one."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb") if int(path.parts[4]) >= 14]
    if not found and (program := shutil.which("initdb")):
        found = [Path(program).resolve().parent]
    return max(found, key=lambda path: path.parts, default=None)


class PostgresServer:
    """Started by `start`, gone after `stop`. With `durable=False` it does not wait for the disk."""

    def __init__(self, *, durable: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # short: a socket's path has 107 bytes
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count(1)

    def start(self) -> None:
        """Make the cluster where there is none, run the server, wait until it answers."""
        programs = binaries()
        assert programs is not None
        if not self._data.exists():
            if (user := self._user()) is not None:
                shutil.chown(self.folder, user)
            initdb = [
                *self._as_user(),
                str(programs / "initdb"),
                "-D",
                str(self._data),
                *("-A", "trust", "-E", "UTF8", "--locale=C", "-U", "postgres", "--no-sync"),
            ]
            subprocess.run(initdb, check=True, capture_output=True, cwd="/")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._as_user(),
                    *("setpriv", "--pdeathsig", "QUIT"),  # a test run that is killed leaves no server behind
                    *(str(programs / "postgres"), "-D", str(self._data)),
                    *self._options(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError(f"exit code {self._process.poll()}: {self._said()}") from None
                time.sleep(0.02)

    def _options(self) -> list[str]:
        options = [
            f"unix_socket_directories={self.folder}",
            "listen_addresses=",
            "max_connections=200",
            "shared_buffers=32MB",
            "recovery_init_sync_method=syncfs",  # not one fsync for each of a thousand files
        ]
        if not self._durable:
            options += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        return [word for option in options for word in ("-c", option)]

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @staticmethod
    def _user() -> str | None:
        """The server refuses to be run by root."""
        if os.geteuid():
            return None
        names = {entry.pw_name for entry in pwd.getpwall()}
        return "postgres" if "postgres" in names else "nobody"

    def _as_user(self) -> list[str]:
        """What makes a command run as another user.

        subprocess with `user` forks, and gRPC, which may be at work in other threads, has handlers of forks that crash
        the child now and then; without it, subprocess uses vfork, and nobody's handlers run.
        """
        if (user := self._user()) is None:
            return []
        group = str(pwd.getpwnam(user).pw_gid)
        return ["setpriv", "--reuid", user, "--regid", group, "--clear-groups"]

    def url(self, database: str) -> str:
        """For libpq and for the controller's settings."""
        return f"postgresql://postgres@/{database}?host={quote(str(self.folder), safe='')}"

    def database(self) -> str:
        """The address of a new, empty database."""
        name = f"test_{next(self._names)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected: hundreds of them would take minutes to delete as files."""
        name = urlsplit(url).path.removeprefix("/")
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement as the superuser, outside of any transaction; its rows, if it has any."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def signal(self, number: Signals) -> None:
        """SIGINT: end quickly; SIGQUIT: end as in a crash."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: Signals = SIGQUIT) -> None:
        """End the server, with all its processes; the data stay for another `start`.

        A child that outlives its parent holds the shared memory, and the next server refuses to start beside it.
        """
        if self._process is None:
            return
        self.signal(number)
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None or self._children():
            if time.monotonic() > deadline:
                raise AssertionError(f"it does not end: {self._process.poll()}, {self._children()}: {self._said()}")
            time.sleep(0.02)
        self._process = None

    def _children(self) -> list[str]:
        """Its processes: all of them work in the folder with the data. (Each has a session of its own.)"""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # ended meanwhile, or of somebody else
                if (process / "cwd").readlink() == self._data:
                    found.append(process.name)
        return found

    def _said(self) -> str:
        return (self.folder / "log").read_text()

    def remove(self) -> None:
        """End the server and leave nothing."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
