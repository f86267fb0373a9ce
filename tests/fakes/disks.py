"""File systems that are really small, for what happens when they are full. Mounting needs root; else the test skips."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(mount: Path, megabytes: int) -> Iterator[Path]:
    """A file system of this size at `mount`, which is made and goes with it."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(mount)]
    done = subprocess.run(command, check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"this root may not mount: {done.stderr.decode().strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=True)
        mount.rmdir()


def fill(path: Path) -> None:
    """Let this file take all that is left."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return
