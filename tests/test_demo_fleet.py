"""The demo of a fleet is the whole product in one go: real processes, real commands, calls that never stop."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_of_a_fleet_ends_with_every_call_in_the_archive_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.demo_fleet", "--dir", str(tmp_path / "fleet")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" in the archive, 0 twice") == 3
