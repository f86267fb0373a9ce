"""A process that counts calls by its shares, for tests: `python quota_agent.py ADDRESS DIRECTORY RATE FILE`.

The real stream over mTLS, the real leases; calls come at random, RATE a second. The moment of each that passes is
appended to FILE (monotonic clock, which all processes of a host share), at once: kill -9 loses none that counts.
"""

import asyncio
import os
import random
import struct
import sys
import time
from pathlib import Path

from agent.control.channels import Channels
from agent.control.credentials import CredentialFiles
from agent.control.quota_link import QuotaLink
from agent.control.settings import ControllerSettings
from agent.ops.log import LineWriter, Log
from agent.policy.leases import FleetRate, LeaseBook, Partition

LIMIT, KEY = "all", "*"
OF = FleetRate(300.0, 60.0, Partition.SAFE)
TURN_SECONDS = 0.004


async def run(address: str, directory: Path, rate: float, file: Path) -> None:
    log = Log(LineWriter(sys.stdout.fileno()))
    channels = Channels(ControllerSettings(address, directory))
    channels.take(CredentialFiles(directory).load())
    book = LeaseBook()
    book.follow({LIMIT: OF}, [(LIMIT, KEY)])
    link = QuotaLink(book, channels, directory, log)
    await link.start()
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    due = time.monotonic()
    while True:
        passed = []
        while due < time.monotonic():
            due += random.expovariate(rate)
            now = time.monotonic()
            found = book.hit(LIMIT, KEY, now)
            assert found is not None
            share, conforms = found
            if conforms:
                share.take()
                passed.append(now)
        if passed:
            os.write(out, struct.pack(f"{len(passed)}d", *passed))
        await asyncio.sleep(TURN_SECONDS)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])))
