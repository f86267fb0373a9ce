"""PostgreSQL's part of a back-up, by PostgreSQL's own programs. Blocks.

A dump is of one snapshot, and what else is asked of the database for the back-up is answered on the same one. It is put
back as a whole, into a database that holds no state, or not at all.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, LiteralString

import psycopg

from agent.model import ConfigError
from controller.store.settings import StoreSettings

MISSING: Final = "is not here: install postgresql-client, of the server's release or a later one"
CONNECT_SECONDS: Final = 10
_BARE: Final = ("--no-owner", "--no-privileges")
"""The role that puts it back may be another one, and needs no rights but those in its database."""


class DumpError(Exception):
    """What the server or its program said."""


def dump(settings: StoreSettings, made: Path, questions: Mapping[str, LiteralString]) -> dict[str, list[str]]:
    """Write the database to this file, which exists; the first column of what each question finds in it.

    Raises DumpError, ConfigError.
    """
    try:
        with _connected(settings) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            snapshot = connection.execute("SELECT pg_export_snapshot()").fetchone()
            assert snapshot is not None
            rows = {place: connection.execute(sql).fetchall() for place, sql in questions.items()}
            _run("pg_dump", settings, ["--format=custom", *_BARE, f"--snapshot={snapshot[0]}", f"--file={made}"])
    except psycopg.Error as error:
        raise DumpError(_words(error)) from None
    return {place: [str(name) for (name,) in found] for place, found in rows.items()}


def holds_state(settings: StoreSettings) -> bool:
    """Whether a controller has used this database. Raises DumpError, ConfigError."""
    try:
        with _connected(settings) as connection:
            return connection.execute("SELECT to_regclass('alembic_version')").fetchone() != (None,)
    except psycopg.Error as error:
        raise DumpError(_words(error)) from None


def put_back(settings: StoreSettings, made: Path) -> None:
    """Into an empty database, all or nothing. Raises DumpError, ConfigError."""
    _run("pg_restore", settings, ["--exit-on-error", "--single-transaction", *_BARE, str(made)])


def _connected(settings: StoreSettings) -> "psycopg.Connection[tuple[object, ...]]":
    url = settings.url().set(drivername="postgresql").render_as_string(hide_password=False)
    # Nobody uses the snapshot's own transaction while it is dumped, which may take long.
    options = "-c idle_in_transaction_session_timeout=0"
    return psycopg.connect(url, connect_timeout=CONNECT_SECONDS, options=options)


def _run(program: str, settings: StoreSettings, arguments: Sequence[str]) -> None:
    url = settings.url().set(drivername="postgresql")
    environment = {"PGPASSWORD": url.password} if url.password else {}  # others may see a program's arguments
    command = [program, f"--dbname={url.set(password=None).render_as_string()}", "--no-password", *arguments]
    try:
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        raise ConfigError(program, MISSING) from None
    if done.returncode:
        raise DumpError(f"{program}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")


def _words(error: psycopg.Error) -> str:
    return f"PostgreSQL: {' '.join(str(error).split())}"
