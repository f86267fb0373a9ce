"""What the `sbc-agent dno` commands share: opening a list, complaining about it, times in words."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from agent.cli.output import complain
from agent.files import map_file, unmap
from agent.model import ConfigError, ConfigErrors
from agent.numbers.dno import DnoList
from agent.numbers.listfile import read_list, rfc3339


@contextlib.contextmanager
def opened_list(path: Path) -> Iterator[DnoList]:
    """A list for as long as it is needed. Raises ConfigError naming the file."""
    try:
        memory = map_file(path)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None
    dno_list = read_list(memory, str(path))
    try:
        yield dno_list
    finally:
        dno_list.release()
        unmap(memory)


def complain_of(error: ConfigError) -> None:
    """One line for each fault."""
    for fault in error.errors if isinstance(error, ConfigErrors) else (error,):
        complain(str(fault))


def time_text(when: float | None, absent: str) -> str:
    """Epoch seconds in words."""
    return absent if when is None else rfc3339(when)
