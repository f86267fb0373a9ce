"""A flood: INVITEs of one caller by UDP, as fast as asked for or as can be.

`python -m tests.fakes.flood SOURCE TARGET RATE SECONDS` sends from SOURCE port 5060 to TARGET port 5060, and prints
how many it sent a second. Sends in batches by one system call each, so that it reaches 100,000 a second and more.
"""

import socket
import sys
import time

from agent.ingress.datagrams import MAX_BATCH, pack_address, send_batch
from tests.fakes.calls import invite


def flood(source: str, target: str, rate: float, seconds: float, called: str = "") -> float:
    """The rate reached, per second. rate 0: as fast as can be."""
    address = pack_address(target, 5060)
    raws = [invite(*([called] if called else []), call_id=f"flood-{n}@x").replace(b"192.0.2.10", source.encode())
            for n in range(MAX_BATCH)]  # fmt: skip
    datagrams = [(raw, address) for raw in raws]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 5060))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        began = time.perf_counter()
        sent = 0
        while (elapsed := time.perf_counter() - began) < seconds:
            if rate and sent > elapsed * rate:
                time.sleep(MAX_BATCH / rate / 2)
                continue
            sent += MAX_BATCH - send_batch(sock.fileno(), datagrams)
        return sent / elapsed


if __name__ == "__main__":
    source, target, rate, seconds = sys.argv[1:5]
    print(flood(source, target, float(rate), float(seconds)))
