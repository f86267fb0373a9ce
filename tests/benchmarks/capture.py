"""A capture of ordinary calls to measure replay with: INVITE, 100, 180, 200, ACK, BYE, 200, over Ethernet and UDP."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from agent.ingress.replay import Replay
from agent.policy.compile import compile_policy
from agent.screening import Screening
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.benchmarks.messages import invite

PEER, SBC = "192.0.2.10", "198.51.100.1"
STEP = 0.0002  # seconds between two packets


def _frame(payload: bytes, source: str, destination: str) -> bytes:
    udp = struct.pack("!HHHH", 5060, 5060, 8 + len(payload), 0)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    ip = struct.pack("!BBHHHBBH8s", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0, addresses)
    return b"\2\0\0\0\0\1\2\0\0\0\0\2\x08\0" + ip + udp + payload


def _call(number: int) -> Iterator[bytes]:
    request = invite(f"12015{number % 600_000:06d}", call_id=f"{number}@192.0.2.10", branch=f"z9hG4bK{number}")
    head, _, _ = request.partition(b"Contact:")
    rows = head.split(b"\r\n", 1)[1]
    yield _frame(request, PEER, SBC)
    for status in (b"100 Trying", b"180 Ringing", b"200 OK"):
        yield _frame(b"SIP/2.0 " + status + b"\r\n" + rows + b"Content-Length: 0\r\n\r\n", SBC, PEER)
    for method in (b"ACK", b"BYE"):
        start = method + b" sip:sbc.example.net SIP/2.0\r\n"
        yield _frame(start + _rows_of(rows, method) + b"Content-Length: 0\r\n\r\n", PEER, SBC)
    yield _frame(b"SIP/2.0 200 OK\r\n" + _rows_of(rows, b"BYE") + b"Content-Length: 0\r\n\r\n", SBC, PEER)


def _rows_of(rows: bytes, method: bytes) -> bytes:
    return rows.replace(b"INVITE", method).replace(b"branch=", b"branch=z9hG4bK" + method)


def write_capture(path: Path, calls: int) -> int:
    """Write the capture; returns how many packets it holds."""
    packets = 0
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1))
        for number in range(calls):
            for frame in _call(number):
                seconds, micros = divmod(round(packets * STEP * 1e6), 1_000_000)
                file.write(struct.pack("<IIII", 1_800_000_000 + seconds, micros, len(frame), len(frame)) + frame)
                packets += 1
    return packets


def our_replay(path: Path) -> None:
    """Replay the capture under a policy with a limit; fails if it does not find every call."""
    limit = pb.Limit(name="rate", scope=pb.SCOPE_TRUNK, rate=1e6, burst=1e6)
    replay = Replay([Screening(compile_policy(pb.Policy(limits=[limit]), {}))])
    outcomes = sum(1 for _ in replay.run([path]))
    assert outcomes == replay.files[0].invites > 0
