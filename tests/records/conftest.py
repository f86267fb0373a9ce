"""Fixtures of the tests about records."""

from pathlib import Path

import pytest


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Where a spool may be."""
    return tmp_path / "spool"
