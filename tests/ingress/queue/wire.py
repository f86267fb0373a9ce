"""A caller and a host with an SBC's sockets, in namespaces of their own, and the queue between them in this process."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from agent.ingress.queue.server import QueueServer
from agent.ingress.queue.settings import QueueSettings
from agent.model import Verdict
from agent.screening import Decision, Screening
from agent.service import RecordSink, Service
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.fakes.calls import invite, policy
from tests.fakes.namespaces import Namespace, join, need_namespaces
from tests.fakes.waiting import until

CALLER, SBC = "192.0.2.2", "192.0.2.1"
OTHER = "192.0.2.3"
CALLER6, SBC6 = "2001:db8:1::2", "2001:db8:1::1"
PORT = 5060
QUIET_SECONDS = 0.15  # that nothing comes in: a hundred times what a packet takes


class Records(RecordSink):
    """What was decided."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def put(self, decision: Decision) -> None:
        self.decisions.append(decision)

    @property
    def verdicts(self) -> list[Verdict]:
        return [decision.verdict for decision in self.decisions]


def trunk() -> pb.Trunk:
    return pb.Trunk(id="peer", sources=[f"{CALLER}/32", f"{CALLER6}/128"])


def one_call_each() -> pb.Policy:
    """One call from each calling number passes, every other one gets 503."""
    limit = pb.Limit(name="calls", scope=pb.SCOPE_CALLING, rate=1, window_seconds=3600, burst=1)
    return pb.Policy(trunks=[trunk()], limits=[limit])


@dataclass
class Wire:
    """The namespaces, and a socket of the caller and of the SBC for each family."""

    caller: Namespace
    sbc: Namespace
    phone: socket.socket
    phone6: socket.socket
    proxy: socket.socket
    proxy6: socket.socket


@contextmanager
def wire() -> Iterator[Wire]:
    """Both namespaces, joined; nothing screens yet."""
    need_namespaces()
    with Namespace("caller") as caller, Namespace("sbc") as sbc:
        join(caller, "caller0", sbc, "sbc0")
        caller.address("caller0", f"{CALLER}/24", f"{OTHER}/24", f"{CALLER6}/64")
        sbc.address("sbc0", f"{SBC}/24", f"{SBC6}/64")
        with (
            bound(caller, CALLER) as phone,
            bound(caller, CALLER6) as phone6,
            bound(sbc, SBC) as proxy,
            bound(sbc, SBC6) as proxy6,
        ):
            yield Wire(caller, sbc, phone, phone6, proxy, proxy6)


@contextmanager
def bound(namespace: Namespace, host: str, port: int = PORT) -> Iterator[socket.socket]:
    """A UDP socket at that address of a namespace."""
    with namespace.inside():
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.bind((host, port))
        sock.setblocking(False)
        yield sock


@asynccontextmanager
async def screening(
    wire: Wire, message: pb.Policy | None = None, settings: QueueSettings | None = None
) -> AsyncIterator[tuple[QueueServer, Records]]:
    """The queue of the SBC's host, started; it is stopped afterwards."""
    records = Records()
    service = Service(Screening(policy(message or pb.Policy(trunks=[trunk()])), b"secret"), records)
    failures: list[Exception] = []
    with wire.sbc.inside():
        server = QueueServer(service, settings or QueueSettings(), failures.append)
        await server.start()
        try:
            yield server, records
        finally:
            await server.stop(0.0)
    assert not failures


async def received(sock: socket.socket, seconds: float = 5.0) -> bytes:
    """The next datagram."""
    return (await received_from(sock, seconds))[0]


async def received_from(sock: socket.socket, seconds: float = 5.0) -> tuple[bytes, tuple[str, int]]:
    """The next datagram, and who it is from."""
    found: list[tuple[bytes, tuple[str, int]]] = []

    def came() -> bool:
        try:
            data, address = sock.recvfrom(65_535)
        except BlockingIOError:
            return False
        found.append((data, address[:2]))
        return True

    await until(came, seconds)
    return found[0]


async def nothing_comes(sock: socket.socket) -> None:
    """AssertionError if something does."""
    await asyncio.sleep(QUIET_SECONDS)
    try:
        data = sock.recv(65_535)
    except BlockingIOError:
        return
    raise AssertionError(f"received {data[:60]!r}")


async def refused_call(wire: Wire) -> tuple[bytes, bytes]:
    """An INVITE that is refused, with its answer, received; the policy is `one_call_each`."""
    wire.phone.sendto(invite(), (SBC, PORT))
    await received(wire.proxy)
    raw = invite()
    wire.phone.sendto(raw, (SBC, PORT))
    return raw, await received(wire.phone)


def following(method: str, raw: bytes, answer: bytes = b"") -> bytes:
    """The CANCEL of an INVITE, or the ACK to its answer, with what must be the same (RFC 3261 9.1, 17.1.1.3)."""
    to = next(row for row in (answer or raw).split(b"\r\n") if row.startswith(b"To:"))
    rows = [to if row.startswith(b"To:") else row for row in raw.split(b"\r\n")]
    return b"\r\n".join(rows).replace(b"INVITE", method.encode())
