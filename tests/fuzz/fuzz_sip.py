"""Fuzzing of everything that reads SIP: `python -m tests.fuzz.fuzz_sip --seconds 600`.

Starts from our corpus and, where it is there, the messages of other projects.
"""

import sys

from tests.conftest import SHARED_DATA
from tests.fuzz.harness import Target, run

TARGET = Target(
    "tests.fuzz.fuzz_sip", "tests.fuzz.checks", ("agent.sip", "tests.fuzz.checks"), "sip", (SHARED_DATA / "sip",)
)

if __name__ == "__main__":
    sys.exit(run(TARGET, sys.argv[1:]))
