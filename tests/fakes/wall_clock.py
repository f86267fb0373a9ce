"""A wall clock that a test sets, for one process: see wall_clock.c. The clock of this machine stays as it is.

libfaketime would not do: it takes monotonic sleeps for ones that end at a time of the wall clock (0.9.10).
"""

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".c")
COMPILER: Final = shutil.which("cc")


class WallClock:
    """That of the process which is started with `environment`."""

    def __init__(self, folder: Path) -> None:
        assert COMPILER is not None
        library, self._file = folder / "wall_clock.so", folder / "wall_clock.ahead"
        subprocess.run([COMPILER, "-shared", "-fPIC", "-O2", "-o", library, SOURCE], check=True)
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_AHEAD": str(self._file)}
        self.set(0)

    def set(self, ahead: int) -> None:
        """So many seconds ahead of this machine's clock, from now on."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", ahead))
