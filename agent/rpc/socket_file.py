"""The Unix socket's file: who may open it, and whether somebody listens on it already.

The permissions of the file and of its folders are the first guard; who asks is then held against them call by call
(agent.rpc.local). The socket is made in a folder that nobody else can enter, gets its permissions there, and then takes
its name: at no moment can it be opened by somebody who must not.
"""

import grp
import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from typing import Final

from agent.model import ConfigError

CONNECT_SECONDS: Final = 1.0
"""Who listens on a local socket is connected at once; this is for a process that is stopped."""


class SocketFile:
    """A name for a socket that a server is about to make. `section` is that of agent.toml, for errors."""

    def __init__(self, path: Path, mode: int, group: str, section: str = "hook") -> None:
        self.path = path
        self.section = section
        self._mode = mode
        self._group = group
        self._inode: tuple[int, int] | None = None
        self.group_id = -1  # whose members may open it, once it is published; -1 for nobody's

    def prepare(self) -> Path:
        """Where to bind. Raises ConfigError if the name is taken or the group unknown, OSError without permission."""
        self._group_id()
        refuse_taken(self.path, self.section)
        # In the same folder, as a name is given to a file by rename, within one file system.
        return Path(tempfile.mkdtemp(prefix=f".{self.section}-", dir=self.path.parent)) / "s"

    def publish(self, bound: Path) -> None:
        """Give the socket its permissions and then its name. Raises OSError."""
        group = self._group_id()
        if group is not None:
            os.chown(bound, -1, group)
        bound.chmod(self._mode)
        made = bound.stat()
        bound.replace(self.path)
        self._inode = (made.st_dev, made.st_ino)
        self.group_id = made.st_gid if self._mode & 0o020 else -1

    def discard(self, bound: Path) -> None:
        """Remove what `prepare` made."""
        shutil.rmtree(bound.parent, ignore_errors=True)

    def remove(self) -> None:
        """Take the name away, unless it is somebody else's by now."""
        try:
            now = self.path.lstat()
            if (now.st_dev, now.st_ino) == self._inode:
                self.path.unlink()
        except OSError:
            pass  # it is gone, or its folder is
        self._inode = None

    def _group_id(self) -> int | None:
        if not self._group:
            return None
        try:
            return grp.getgrnam(self._group).gr_gid
        except KeyError:
            raise ConfigError(f"{self.section}.group", f'there is no group "{self._group}"') from None


def refuse_taken(path: Path, section: str) -> None:
    """Raise ConfigError if something stands at `path` that is not a socket on which nobody listens."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{section}.socket", f"{path} exists and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return  # left behind by a process that was killed
        except OSError as error:
            raise ConfigError(
                f"{section}.socket", f"{path} is a socket that cannot be tried: {error.strerror}"
            ) from None
    raise ConfigError(f"{section}.socket", f"somebody listens on {path} already")
