"""A capture of any size replays in constant memory, also one that is made to fill every table."""

import os
import resource
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.ingress.replay import Replay
from agent.policy.compile import compile_policy
from agent.screening import Screening
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.ingress.frames import ethernet, ipv4, pcap, tcp, udp

CAPTURE_BYTES = 200 << 20
MAX_GROWTH = 24 << 20
"""Bytes that the process may grow once its tables are full: noise of the allocator, not a share of the capture."""

RTP = ethernet(ipv4(udp(b"\x80\x08" + bytes(170), 20_000, 30_000)))


def invite(number: int) -> bytes:
    return (
        b"INVITE sip:+1201555%04d@sbc.example.net SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK%d\r\n"
        b"From: <sip:+1212555%04d@192.0.2.10>;tag=%d\r\nTo: <sip:+12015550100@sbc.example.net>\r\n"
        b"Call-ID: %d@192.0.2.10\r\nCSeq: 1 INVITE\r\nContent-Length: 400\r\n\r\n"
        % (number % 10_000, number, number % 9_999, number, number)
    ) + bytes(400)


def hostile_frames(number: int) -> Iterator[bytes]:
    """A call that nobody saw before, media, a stream that never ends a message, a fragment that stays alone."""
    yield ethernet(ipv4(udp(invite(number)), source=struct.pack("!I", 0xC0000200 + number % 250)))
    yield RTP
    port = 1024 + number % 60_000
    yield ethernet(ipv4(tcp(invite(number)[:300], 0, 2, sport=port), 6))
    yield ethernet(ipv4(tcp(invite(number)[:300], 5_000, sport=port), 6))  # behind a gap
    yield ethernet(ipv4(udp(invite(number))[:400], identification=number & 0xFFFF, fragment=0x2000))


def write_capture(path: Path, size: int) -> None:
    """Write into a pipe, as a compressed archive would be unpacked into it: nothing of it is on disk."""
    with path.open("wb", buffering=1 << 20) as pipe:
        written, number = pipe.write(pcap([])), 0
        while written < size:
            number += 1
            stamp = struct.pack("<II", 1_793_631_600 + number // 100, number % 100 * 10_000)
            for frame in hostile_frames(number):
                written += pipe.write(stamp + struct.pack("<II", len(frame), len(frame)) + frame)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_large_hostile_capture_replays_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "capture.pcap"
    os.mkfifo(path)
    writer = threading.Thread(target=write_capture, args=(path, CAPTURE_BYTES), daemon=True)
    writer.start()
    limit = pb.Limit(name="rate", scope=pb.SCOPE_CALLING, rate=1, sessions=5)
    replay = Replay([Screening(compile_policy(pb.Policy(limits=[limit]), {}))])
    sizes: list[int] = []
    for number, _ in enumerate(replay.run([path])):
        if not number % 1000:
            sizes.append(resident())
    writer.join()
    counts = replay.files[0]
    assert counts.whole
    assert counts.attempts == counts.invites > 80_000
    steady = sizes[len(sizes) // 2 :]  # by then attempts, streams and fragments expire as fast as they come
    assert max(steady) - steady[0] < MAX_GROWTH, [size >> 20 for size in sizes]
