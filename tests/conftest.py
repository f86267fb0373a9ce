"""Fixtures that every test may use."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("SBC_EDGE_SHARED_DATA", ROOT.parent / "shared" / "data"))

# A shell that runs the tests in its background has them ignore SIGINT, and the programs that they interrupt would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Deadlines measure the machine, not the code; the time bounds that matter are asserted where they are promised.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=5000)
settings.register_profile("steady", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of captures and messages from public projects; not part of this repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no third-party test data at {SHARED_DATA} (set SBC_EDGE_SHARED_DATA)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Messages that we constructed ourselves, and inputs that crashed us."""
    return ROOT / "tests" / "corpus"
