"""A peer and an SBC's host in network namespaces, a cable between them, and captures at the SBC's end of it."""

import asyncio
import socket
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.calls.pairing import Pairing
from agent.ingress.capture.observer import Observer
from agent.ingress.capture.server import CaptureServer
from agent.ingress.capture.settings import CaptureSettings
from agent.policy.policy import Policy
from tests.fakes.calls import policy as any_policy
from tests.fakes.namespaces import Namespace, join, need_namespaces
from tests.ingress.frames import ethernet, ipv4, udp
from tests.integration.peers import need, wait_for

PEER, SBC = "10.9.0.1", "10.9.0.2"
PEER6, SBC6 = "fd09::1", "fd09::2"
WIRE: Final = "sbc0"  # the SBC's end
THE_END: Final = b"end of the recording"


@dataclass
class Cable:
    """Both ends. What the peer sends arrives at interface WIRE of the SBC."""

    peer: Namespace
    sbc: Namespace

    def socket(self, of: Namespace, kind: int = socket.SOCK_DGRAM, family: int = socket.AF_INET) -> socket.socket:
        """A socket in that namespace."""
        with of.inside():
            return socket.socket(family, kind)

    def plug(self) -> None:
        """Lay the cable, with addresses of both versions."""
        join(self.peer, "peer0", self.sbc, WIRE)
        self.peer.address("peer0", f"{PEER}/24", f"{PEER6}/64")
        self.sbc.address(WIRE, f"{SBC}/24", f"{SBC6}/64")

    def unplug(self) -> None:
        """Remove it: both interfaces are gone."""
        self.sbc.ip("link", "del", WIRE)

    def frames(self, frames: Sequence[bytes], interface: str = "peer0") -> None:
        """Put these Ethernet frames on the cable, at the peer's end."""
        with self.peer.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((interface, 0))
            for frame in frames:
                sender.send(frame)


@contextmanager
def cable() -> Iterator[Cable]:
    """Both namespaces and the cable between them; skips where they cannot be had."""
    need_namespaces()
    with Namespace("peer") as peer, Namespace("sbc") as sbc:
        made = Cable(peer, sbc)
        made.plug()
        yield made


def settings(
    *, methods: tuple[str, ...] = (), interfaces: tuple[str, ...] = (WIRE,), tunnels: bool = False, ring: int = 16 << 20
) -> CaptureSettings:
    """Of everything on port 5060, unless methods are given."""
    return CaptureSettings(interfaces=interfaces, methods=methods, tunnels=tunnels, ring_bytes=ring)


def captured(
    wires: Cable,
    what: CaptureSettings,
    during: Callable[[CaptureServer], Awaitable[None]],
    pairing: Pairing | None = None,
    policy: Policy | None = None,
    observer: Observer | None = None,
) -> CaptureServer:
    """Capture at the SBC while `during` runs; the server, which has stopped."""
    in_force = policy or any_policy()
    server = CaptureServer(what, observer or Observer(lambda: in_force), pairing, _raise)

    async def main() -> None:
        await server.start()
        try:
            await during(server)
        finally:
            await server.stop(5.0)

    with wires.sbc.inside():
        asyncio.run(main())
    return server


def _raise(error: Exception) -> None:
    raise error


@dataclass
class Recording:
    """What dumpcap(1) wrote at the SBC's end; tshark(1) says what is in it."""

    path: Path

    def messages(self, only: str = "") -> tuple[Counter[str], Counter[str]]:
        """Methods and status codes of the SIP messages on port 5060."""
        condition = "sip && (udp.port == 5060 || tcp.port == 5060)" + (f" && ({only})" if only else "")
        command = ["tshark", "-r", str(self.path), "-Y", condition, "-T", "fields", "-E", "separator=/s"]
        output = subprocess.run(
            [*command, "-E", "aggregator=,", "-e", "sip.Method", "-e", "sip.Status-Code"],
            capture_output=True, check=True, text=True,
        ).stdout  # fmt: skip
        words = Counter(
            word for line in output.splitlines() for cell in line.split() for word in cell.split(",") if word
        )
        codes = {word: number for word, number in words.items() if word.isdigit()}
        return Counter({w: n for w, n in words.items() if w not in codes}), Counter(codes)

    def packets(self) -> int:
        """Frames in it."""
        command = ["tshark", "-r", str(self.path), "-T", "fields", "-e", "frame.number"]
        return len(subprocess.run(command, capture_output=True, check=True).stdout.split())


@contextmanager
def recording(wires: Cable, folder: Path) -> Iterator[Recording]:
    """dumpcap(1) at the SBC's end, ready when the block begins; its file is whole when it has ended."""
    need("dumpcap", "tshark")
    path = folder / "wire.pcapng"
    command = wires.sbc.command("dumpcap", "-p", "-i", WIRE, "-w", str(path), "-B", "64")
    log = folder / "dumpcap.log"
    with log.open("wb") as output, subprocess.Popen(command, stderr=output, stdout=output) as process:
        try:
            wait_for(lambda: b"File:" in log.read_bytes(), f"dumpcap to begin: {log.read_text()}")
            yield Recording(path)
            # What it has captured it writes some time later; the last frame shows that it has written all others.
            wires.frames([ethernet(ipv4(udp(THE_END, 9, 9)))])
            wait_for(lambda: THE_END in path.read_bytes(), "dumpcap to have written everything")
        finally:
            process.terminate()
            process.wait(10.0)
