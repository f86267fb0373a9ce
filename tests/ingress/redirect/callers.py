"""Callers for tests of the redirect server: real sockets on loopback, constructed messages."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

from agent.ingress.redirect.server import RedirectServer
from agent.ingress.redirect.settings import Listen, RedirectSettings
from agent.screening import Decision, Screening
from agent.service import RecordSink, Service
from agent.sip.scan import scan
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.fakes.calls import policy

LOOPBACK = Listen("127.0.0.1", 0)
LOOPBACK_6 = Listen("::1", 0)


class Records(RecordSink):
    """Keeps what was decided."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def put(self, decision: Decision) -> None:
        self.decisions.append(decision)


def trunk(code: int = 0, next_hop: str = "") -> pb.Trunk:
    """The trunk of everybody on loopback."""
    return pb.Trunk(id="peer", sources=["127.0.0.1", "::1"], redirect=pb.RedirectAnswer(code=code, next_hop=next_hop))


def service(message: pb.Policy | None = None) -> Service:
    """Screening with the loopback trunk, under the policy given."""
    return Service(Screening(policy(message or pb.Policy(trunks=[trunk()]))), Records())


def declining() -> Service:
    """Refuses every call with 603: its provider is blocked."""
    block = pb.ProviderBlockRule(blocks=[pb.ProviderBlock(trunk="peer")])
    return service(pb.Policy(trunks=[trunk()], provider_block=block))


@asynccontextmanager
async def serving(
    service: Service, clock: Callable[[], float] | None = None, **settings: Any
) -> AsyncIterator[RedirectServer]:
    """A redirect server that runs; on UDP over IPv4 unless told otherwise."""
    if not settings.keys() & {"udp", "tcp", "tls"}:
        settings["udp"] = (LOOPBACK,)
    failures: list[Exception] = []
    clocks = {} if clock is None else {"clock": clock}
    server = RedirectServer(service, RedirectSettings(**settings), failures.append, **clocks)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0.0)
        assert not failures


class Caller:
    """A UDP socket on loopback that sends to the server and waits for what comes back."""

    def __init__(self, server: RedirectServer, host: str = "127.0.0.1") -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((host, 0))
        self.port: int = self.socket.getsockname()[1]
        self._server = next(
            address for transport, address in server.addresses if transport == "udp" and address.host == host
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, raw: bytes) -> None:
        self.socket.sendto(raw, tuple(self._server))

    async def receive(self) -> bytes:
        async with asyncio.timeout(5.0):
            return await asyncio.get_running_loop().sock_recv(self.socket, 65_535)

    async def ask(self, raw: bytes) -> bytes:
        """Send, and wait for the answer."""
        self.send(raw)
        return await self.receive()

    async def is_silent(self) -> bool:
        """Whether everything sent so far was taken in and nothing came back: a request behind it is answered first."""
        answer = await self.ask(request("OPTIONS", self.port))
        return answer.startswith(b"SIP/2.0 200 ") and b" OPTIONS\r\n" in answer


def request(
    method: str = "INVITE",
    port: int = 5060,
    *,
    called: str = "sip:+13035550199@sbc.example.net;user=phone",
    call_id: str = "7c1@a.example.net",
    branch: str = "z9hG4bKa1",
    to_tag: str = "",
    cseq: int = 1,
    rport: bool = True,
    host: str = "127.0.0.1",
    transport: str = "UDP",
) -> bytes:
    """A request that comes from this port."""
    tag = f";tag={to_tag}" if to_tag else ""
    return (
        f"{method} {called} SIP/2.0\r\n"
        f"Via: SIP/2.0/{transport} {host}:{port};branch={branch}{';rport' if rport else ''}\r\n"
        "Max-Forwards: 70\r\n"
        "From: <sip:+12015550123@a.example.net;user=phone>;tag=9f\r\n"
        f"To: <{called}>{tag}\r\n"
        f"Call-ID: {call_id}\r\n"
        f"CSeq: {cseq} {method}\r\n"
        "Identity: eyJhbGciOiJFUzI1NiJ9.e30.c2ln;info=<https://certs.example.net/1.pem>;alg=ES256;ppt=shaken\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()


def to_tag_of(answer: bytes) -> str:
    """The To tag of an answer."""
    return scan(answer).to_tag.decode()
