"""Processes whose wall clock is off, by libfaketime of Debian's package faketime. The monotonic clock is left alone."""

from pathlib import Path
from typing import Final

import pytest

HOUR: Final = 3600.0


def off_by(seconds: float) -> dict[str, str]:
    """The environment of a process whose wall clock is so far ahead; for `environment` of agents and controllers."""
    return _environment() | {"FAKETIME": f"{seconds:+.0f}"}


class Clock:
    """A wall clock that is set while processes run by it: `environment` is theirs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environment = _environment() | {"FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}
        self.set(0.0)

    def set(self, seconds: float) -> None:
        """So far ahead, from now on."""
        made = self._file.with_suffix(".new")
        made.write_text(f"{seconds:+.0f}\n")
        made.replace(self._file)


def _environment() -> dict[str, str]:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("no libfaketime here: apt-get install faketime")
    # What waits for so and so long goes by the monotonic clock.
    monotonic = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    return {"LD_PRELOAD": str(found[0]), "SBC_TEST_CLOCK": "1"} | monotonic
