"""How every command speaks: results on stdout (tables or JSON), complaints and progress on stderr."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.model import ConfigError, ConfigErrors

OK = 0
BAD_INPUT = 1
USAGE_ERROR = 2

LINE_EVERY = 5.0  # seconds between two lines of progress where no bar can be drawn

EXIT_HELP = "exit codes: 0 done; 1 the input is bad, or the answer is no; 2 wrong usage; 130 interrupted"


def print_json(value: object) -> None:
    """One JSON document on stdout; str subclasses and tuples come out as JSON knows them."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def complain(message: str) -> None:
    """One line on stderr, named after the program so that it can be found in a script's output."""
    print(f"sbc-agent: {message}", file=sys.stderr)


def complain_of_file(error: OSError, place: Path, missing: str = "") -> None:
    """What could not be read or written, and what to do about it; `missing`: about one that is not there."""
    complain(f"{error.filename or place}: {error.strerror or error}")
    if isinstance(error, PermissionError) and os.geteuid():
        complain("run it as root")
    elif isinstance(error, FileNotFoundError) and missing:
        complain(missing)


def complain_of_config(file: Path, error: ConfigError, made_by: str) -> None:
    """Every error of a configuration file, a line each that begins with its name; then what to do about one that is not
    there (`made_by` is the command that writes a first one) or is for others to read."""
    for one in error.errors if isinstance(error, ConfigErrors) else (error,):
        # An error about the file itself has its name as field; do not say it twice.
        complain(str(one) if one.field == str(file) else f"{file}: {one}")
    try:
        file.open("rb").close()
    except FileNotFoundError:
        complain(f"`{made_by}` writes a first one")
    except PermissionError:
        complain("run it as root; what the service may not read, `sbc-agent doctor` says")
    except OSError:
        pass  # the error says it


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table as wide as its terminal, or unwrapped when stdout is a file or a pipe."""
    from rich.console import Console  # noqa: PLC0415  (50 ms that `--json` need not pay)
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


@contextmanager
def progress(label: str, total: float | None, *, enabled: bool | None = None) -> Iterator[Callable[[float], None]]:
    """Progress on stderr; call the yielded function with the absolute position reached.

    A bar on a terminal, a line every few seconds elsewhere. `enabled=None` shows it on a terminal only. It begins
    after one second, so that short work stays quiet.
    """
    if enabled is None:
        enabled = sys.stderr.isatty()
    if not enabled:
        yield lambda _position: None
    elif sys.stderr.isatty():
        with _bar(label, total) as moved:
            yield moved
    else:
        yield _lines(label, total)


def _lines(label: str, total: float | None) -> Callable[[float], None]:
    next_at = time.monotonic() + 1.0

    def moved(position: float) -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + LINE_EVERY
            print(
                f"sbc-agent: {label}: {position / total:.0%}" if total else f"sbc-agent: {label}: {position:,.0f}",
                file=sys.stderr,
                flush=True,
            )

    return moved


@contextmanager
def _bar(label: str, total: float | None) -> Iterator[Callable[[float], None]]:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    started = time.monotonic()
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(label, total=total)
    shown = False

    def moved(position: float) -> None:
        nonlocal shown
        if not shown and time.monotonic() - started > 1.0:
            bar.start()
            shown = True
        if shown:
            bar.update(task, completed=position)

    try:
        yield moved
    finally:
        if shown:
            bar.stop()
