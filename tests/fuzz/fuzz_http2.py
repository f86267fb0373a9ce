"""Fuzzing of a connection of HTTP/2 and the calls on it: `python -m tests.fuzz.fuzz_http2 --seconds 600`."""

import sys

from tests.fuzz.harness import Target, run

TARGET = Target(
    "tests.fuzz.fuzz_http2",
    "tests.fuzz.http2_checks",
    ("agent.http2", "agent.rpc", "hpack", "tests.fuzz.http2_checks"),
    "frames",
)

if __name__ == "__main__":
    sys.exit(run(TARGET, sys.argv[1:]))
