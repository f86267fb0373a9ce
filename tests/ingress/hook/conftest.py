"""A folder for sockets that others must be able to reach."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, unlike pytest's: what keeps others out must be the socket itself."""
    folder = Path(tempfile.mkdtemp(prefix="hook-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
