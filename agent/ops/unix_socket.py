"""Unix sockets with a name in the file system: that nobody but the owner, or a group, may open one at any moment.

Knows names and permissions; who listens on the socket is another's business.
"""

import contextlib
import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.model import ConfigError

NAME_MAX: Final = 107
"""Bytes of a socket's name: sun_path of Linux, less its end."""

# Who can connect must be able to write (unix(7)); others of the group when there is one.
_OTHERS_OFF: Final = 0o177
_GROUP_MODE: Final = 0o660


def check_name(path: Path, field: str) -> None:
    """Raises ConfigError naming `field` for a name that no socket can have."""
    if not path.is_absolute():
        raise ConfigError(field, "must be an absolute path")
    if len(os.fsencode(path)) > NAME_MAX:
        raise ConfigError(field, f"must have at most {NAME_MAX} bytes: the names of sockets are short")


@contextlib.contextmanager
def bound_privately(path: Path) -> Iterator[None]:
    """Bind the socket inside: it is the owner's alone from its first moment. Clears away what a killed process left.

    Raises OSError: EADDRINUSE if somebody answers on it, EEXIST if the name is that of another kind of file, and
    whatever keeps a socket from being made there.
    """
    _clear_stale(path)
    before = os.umask(_OTHERS_OFF)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.bind(str(path))  # libraries that bind say less about what is wrong
        path.unlink()
        yield
    finally:
        os.umask(before)


def open_to_group(path: Path, group: str) -> None:
    """Let the members of `group` connect, too. Raises ConfigError for an unknown one, OSError if we may not."""
    try:
        shutil.chown(path, group=group)
    except LookupError:
        raise ConfigError("group", f'there is no group "{group}"') from None
    path.chmod(_GROUP_MODE)


def _clear_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "a file that is no socket has this name", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT):
            raise OSError(errno.EADDRINUSE, "another process answers on this socket", str(path))
    path.unlink(missing_ok=True)
