"""The redirect server over TCP and TLS: messages in any segments, and every way to be a burden bounded and counted."""

import asyncio
import contextlib
import resource
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from agent.ingress.redirect.settings import Listen, RedirectSettings
from agent.ingress.redirect.stream import tls_context
from agent.model import ConfigError
from agent.sip.framer import Framer
from tests.fakes.certificates import Authority
from tests.fakes.waiting import until
from tests.ingress.redirect.callers import LOOPBACK, LOOPBACK_6, declining, request, serving, to_tag_of


class Clock:
    """Real time, until a test moves it on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead


class Peer:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self._framer = reader, writer, Framer()
        self.port: int = writer.get_extra_info("sockname")[1]

    @classmethod
    async def connect(cls, address: Listen, context: ssl.SSLContext | None = None) -> "Peer":
        name = "sbc.example.net" if context else None
        return cls(*await asyncio.open_connection(*address, ssl=context, server_hostname=name))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answers(self, number: int) -> list[bytes]:
        found: list[bytes] = []
        async with asyncio.timeout(5.0):
            while len(found) < number:
                data = await self._reader.read(65_536)
                assert data, "the server closed the connection"
                found += self._framer.feed(data)
        return found

    async def is_cut(self) -> bool:
        """Whether the server ends the connection; what it still had to say is read first."""
        async with asyncio.timeout(5.0):
            try:
                while await self._reader.read(65_536):
                    pass
            except ConnectionError:
                pass
        self._writer.close()
        return True

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self._writer.wait_closed()


def calls(number: int, transport: str = "TCP") -> list[bytes]:
    return [request(call_id=f"{i}@a", branch=f"z9hG4bK{i}", transport=transport) for i in range(number)]


def test_messages_in_segments_of_any_size_are_answered_in_order() -> None:
    async def run() -> None:
        async with serving(declining(), tcp=(LOOPBACK,)) as server:
            peer = await Peer.connect(server.addresses[0][1])
            stream = b"\r\n\r\n".join(calls(5))
            for at in range(0, len(stream), 7):
                peer.send(stream[at : at + 7])
                await asyncio.sleep(0)
            answers = await peer.answers(5)
            await peer.close()
        assert [answer.split(b"Call-ID: ")[1][:3] for answer in answers] == [b"0@a", b"1@a", b"2@a", b"3@a", b"4@a"]
        assert all(answer.startswith(b"SIP/2.0 603 ") for answer in answers)

    asyncio.run(run())


def test_many_messages_in_one_segment_and_over_ipv6() -> None:
    async def run() -> None:
        async with serving(declining(), tcp=(LOOPBACK_6,)) as server:
            peer = await Peer.connect(server.addresses[0][1])
            peer.send(b"".join(calls(100)))
            answers = await peer.answers(100)
            assert b";received=::1;rport=%d\r\n" % peer.port in answers[0]
            await peer.close()

    asyncio.run(run())


def test_answer_over_tcp_is_never_sent_again() -> None:
    async def run() -> None:
        clock = Clock()
        async with serving(declining(), clock, tcp=(LOOPBACK,)) as server:
            peer = await Peer.connect(server.addresses[0][1])
            peer.send(calls(1)[0])
            (answer,) = await peer.answers(1)
            clock.ahead = 31.0
            assert server.streams[0].transactions.due(clock()) == []
            peer.send(request("OPTIONS"))
            (alive,) = await peer.answers(1)
            assert alive.startswith(b"SIP/2.0 200 ")
            peer.send(request("ACK", call_id="0@a", branch="z9hG4bK0", to_tag=to_tag_of(answer)))
            await until(lambda: server.counters()["redirect_acknowledged"] == 1)
            assert server.counters()["redirect_retransmissions"] == 0
            assert server.counters()["redirect_transactions"] == 0
            await peer.close()

    asyncio.run(run())


def test_double_line_break_is_a_ping_and_gets_a_single_one() -> None:
    async def run() -> None:
        async with serving(declining(), tcp=(LOOPBACK,)) as server:
            reader, writer = await asyncio.open_connection(*server.addresses[0][1])
            writer.write(b"\r\n\r\n")
            async with asyncio.timeout(5.0):
                assert await reader.readexactly(2) == b"\r\n"
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\n",
        b"INVITE sip:b@sbc.example.net SIP/2.0\r\nContent-Length: -1\r\n\r\n",
        b"INVITE sip:b@sbc.example.net SIP/2.0\r\nContent-Length: 1\r\nl: 2\r\n\r\n",
        b"x" * 70_000,
        b"INVITE sip:b@sbc.example.net SIP/2.0\r\n" + b"a: b\r\n" * 12_000,
    ],
)
def test_stream_that_cannot_be_followed_is_cut_after_what_came_before_it_is_answered(junk: bytes) -> None:
    async def run() -> None:
        async with serving(declining(), tcp=(LOOPBACK,)) as server:
            peer = await Peer.connect(server.addresses[0][1])
            peer.send(calls(1)[0])
            assert len(await peer.answers(1)) == 1
            peer.send(junk)
            assert await peer.is_cut()
            await until(lambda: server.counters()["redirect_connections"] == 0)
            assert server.counters()["redirect_cut_unreadable"] == 1

    asyncio.run(run())


def test_slow_loris_is_cut_and_others_are_served_meanwhile() -> None:
    async def run() -> None:
        clock = Clock()
        async with serving(
            declining(), clock, tcp=(LOOPBACK,), first_message_seconds=10.0, message_seconds=0.4
        ) as server:
            slow = await Peer.connect(server.addresses[0][1])
            slow.send(calls(1)[0])
            await slow.answers(1)
            good = await Peer.connect(server.addresses[0][1])
            for byte in calls(1)[0][:20]:
                slow.send(bytes([byte]))
                clock.ahead += 0.03
                good.send(request("OPTIONS"))
                assert (await good.answers(1))[0].startswith(b"SIP/2.0 200 ")
            assert await slow.is_cut()
            assert server.counters()["redirect_cut_slow"] == 1
            await good.close()

    asyncio.run(run())


def test_connection_that_brings_no_message_is_cut() -> None:
    async def run() -> None:
        async with serving(declining(), tcp=(LOOPBACK,), first_message_seconds=0.05) as server:
            silent, trickling = [await Peer.connect(server.addresses[0][1]) for _ in range(2)]
            trickling.send(b"INV")
            assert await silent.is_cut()
            assert await trickling.is_cut()
            assert server.counters()["redirect_cut_half_open"] == 2

    asyncio.run(run())


def test_idle_connection_is_cut() -> None:
    async def run() -> None:
        async with serving(declining(), tcp=(LOOPBACK,), idle_seconds=0.05) as server:
            peer = await Peer.connect(server.addresses[0][1])
            peer.send(calls(1)[0])
            await peer.answers(1)
            assert await peer.is_cut()
            assert server.counters()["redirect_cut_idle"] == 1

    asyncio.run(run())


@pytest.mark.slow
def test_ten_thousand_half_open_connections_stay_within_the_bound_and_calls_go_on() -> None:
    bound, flood = 128, 10_000
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < flood + 500:
        pytest.skip(f"one process may open {most} files here, and the callers alone take {flood}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def run() -> None:
        async with serving(
            declining(), tcp=(LOOPBACK,), max_half_open=bound, max_connections=512, max_connections_per_source=20_000
        ) as server:
            address = server.addresses[0][1]
            trunk = await Peer.connect(address)
            trunk.send(calls(1)[0])
            await trunk.answers(1)
            attackers = []
            for number in range(flood):
                attacker = socket.socket()
                attacker.setblocking(False)
                await asyncio.get_running_loop().sock_connect(attacker, address)
                attackers.append(attacker)
                if number % 500 == 0:
                    trunk.send(request("OPTIONS"))
                    assert (await trunk.answers(1))[0].startswith(b"SIP/2.0 200 ")
                    assert server.counters()["redirect_connections"] <= bound + 1
            await until(lambda: server.counters()["redirect_accepted_connections"] == flood + 1)
            counters = server.counters()
            late = await Peer.connect(address)
            late.send(calls(1)[0])
            assert (await late.answers(1))[0].startswith(b"SIP/2.0 603 ")
            for attacker in attackers:
                attacker.close()
            await late.close()
            await trunk.close()
        assert counters["redirect_connections"] == bound + 1
        assert counters["redirect_cut_half_open"] == flood - bound

    asyncio.run(run())


def test_proven_connections_are_not_cut_for_new_ones() -> None:
    async def run() -> None:
        async with serving(declining(), tcp=(LOOPBACK,), max_connections=3) as server:
            address = server.addresses[0][1]
            proven = [await Peer.connect(address) for _ in range(3)]
            for peer in proven:
                peer.send(request("OPTIONS"))
                await peer.answers(1)
            assert await (await Peer.connect(address)).is_cut()
            for peer in proven:
                peer.send(request("OPTIONS"))
                await peer.answers(1)
                await peer.close()
            assert server.counters()["redirect_refused_connections"] == 1

    asyncio.run(run())


def test_one_address_cannot_take_every_connection() -> None:
    async def run() -> None:
        async with serving(declining(), tcp=(LOOPBACK,), max_connections_per_source=2) as server:
            address = server.addresses[0][1]
            peers = [await Peer.connect(address) for _ in range(2)]
            assert await (await Peer.connect(address)).is_cut()
            await peers.pop().close()
            await until(lambda: server.counters()["redirect_connections"] == 1)
            again = await Peer.connect(address)
            again.send(request("OPTIONS"))
            await again.answers(1)
            await again.close()
            await peers.pop().close()

    asyncio.run(run())


def test_peer_that_does_not_read_its_answers_is_held_back_or_cut() -> None:
    async def run() -> None:
        async with serving(declining(), tcp=(LOOPBACK,), max_unsent=4096, idle_seconds=1.0) as server:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, server.addresses[0][1])
            flood = b"".join(calls(200))

            async def send() -> None:
                try:
                    while True:
                        await loop.sock_sendall(sock, flood)
                except ConnectionError:
                    pass

            async with asyncio.timeout(10.0):
                await send()
            sock.close()
            counters = server.counters()
            assert counters["redirect_connections"] == 0
            assert counters["redirect_cut_unread"] + counters["redirect_cut_idle"] == 1

    asyncio.run(run())


def test_unread_answers_before_something_unreadable_keep_the_connection_counted_and_not_for_long() -> None:
    async def run() -> None:
        clock = Clock()
        async with serving(
            declining(), clock, tcp=(LOOPBACK,), first_message_seconds=0.1, message_seconds=10.0
        ) as server:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, server.addresses[0][1])
            sent = 0
            while not any(connection.unsent for connection in server.streams[0]._connections):
                await loop.sock_sendall(sock, b"".join(calls(10)))
                sent += 10
                await asyncio.sleep(0)
            await loop.sock_sendall(sock, b"junk\r\n")
            await until(lambda: any(one._closing is not None for one in server.streams[0]._connections))
            assert server.counters()["redirect_connections"] == 1
            clock.ahead = 11.0
            await until(lambda: server.counters()["redirect_connections"] == 0)
            assert server.counters()["redirect_cut_unread"] == 1
            sock.close()

    asyncio.run(run())


def test_running_out_of_file_descriptors_is_counted_and_gets_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.ingress.redirect.stream.ACCEPT_PAUSE_SECONDS", 0.01)
    real, faults = socket.socket.accept, [OSError(24, "Too many open files")] * 3

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        if faults:
            raise faults.pop()
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)

    async def run() -> None:
        async with serving(declining(), tcp=(LOOPBACK,)) as server:
            peer = await Peer.connect(server.addresses[0][1])
            peer.send(request("OPTIONS"))
            assert (await peer.answers(1))[0].startswith(b"SIP/2.0 200 ")
            await peer.close()
            assert server.counters()["redirect_accept_errors"] == 3

    asyncio.run(run())


def test_stopping_closes_every_connection() -> None:
    async def run() -> None:
        async with serving(declining(), tcp=(LOOPBACK,)) as server:
            peer = await Peer.connect(server.addresses[0][1])
            peer.send(request("OPTIONS"))
            await peer.answers(1)
            await server.stop(1.0)
            assert await peer.is_cut()
            with pytest.raises(OSError, match="Connect"):
                await Peer.connect(server.addresses[0][1])

    asyncio.run(run())


class Tls:
    """What both ends of a TLS connection are given in these tests."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        mine = self.authority.sign("sbc.example.net", dns=("sbc.example.net",))
        self.certificate, self.key, self.ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
        self.certificate.write_bytes(mine.certificate)
        self.key.write_bytes(mine.key)
        self.ca.write_bytes(self.authority.certificate)
        self.folder = folder

    @property
    def server(self) -> dict[str, Any]:
        return {"tls": (LOOPBACK,), "certificate": self.certificate, "key": self.key}

    def client(self, authority: Authority | None = None) -> ssl.SSLContext:
        """Trusts the server; shows a certificate of that authority, or none."""
        context = ssl.create_default_context(cafile=self.ca)
        if authority is not None:
            signed = authority.sign("caller.example.net")
            (self.folder / "client.pem").write_bytes(signed.certificate + signed.key)
            context.load_cert_chain(self.folder / "client.pem")
        return context


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls(tmp_path_factory.mktemp("tls"))


def test_calls_over_tls(tls: Tls) -> None:
    async def run() -> None:
        async with serving(declining(), **tls.server) as server:
            peer = await Peer.connect(server.addresses[0][1], tls.client())
            peer.send(b"".join(calls(3, "TLS")))
            answers = await peer.answers(3)
            assert all(answer.startswith(b"SIP/2.0 603 ") for answer in answers)
            await peer.close()
            await until(lambda: server.counters()["redirect_connections"] == 0)

    asyncio.run(run())


def test_client_without_a_certificate_of_the_authority_gets_no_answer(tls: Tls) -> None:
    async def run() -> None:
        async with serving(declining(), **tls.server, client_ca=tls.ca) as server:
            address = server.addresses[0][1]
            for context in (tls.client(), tls.client(Authority("somebody else"))):
                with pytest.raises((ssl.SSLError, AssertionError, ConnectionError)):  # noqa: PT012  either step may fail
                    peer = await Peer.connect(address, context)
                    peer.send(request("OPTIONS"))
                    await peer.answers(1)
            await until(lambda: server.counters()["redirect_failed_handshakes"] == 2)
            assert server.counters()["redirect_requests"] == 0
            good = await Peer.connect(address, tls.client(tls.authority))
            good.send(request("OPTIONS"))
            assert (await good.answers(1))[0].startswith(b"SIP/2.0 200 ")
            await good.close()

    asyncio.run(run())


@pytest.mark.parametrize("junk", [b"", b"\x16\x03\x01", b"OPTIONS sip:a SIP/2.0\r\n\r\n"])
def test_handshake_that_does_not_come_to_its_end_is_cut(tls: Tls, junk: bytes) -> None:
    async def run() -> None:
        async with serving(declining(), **tls.server, first_message_seconds=0.1) as server:
            peer = await Peer.connect(server.addresses[0][1])
            peer.send(junk)
            assert await peer.is_cut()
            await until(lambda: server.counters()["redirect_connections"] == 0)
            counters = server.counters()
            assert counters["redirect_cut_half_open"] or counters["redirect_failed_handshakes"]

    asyncio.run(run())


def test_half_open_handshakes_are_bounded(tls: Tls) -> None:
    async def run() -> None:
        async with serving(declining(), **tls.server, max_half_open=5, max_connections_per_source=1000) as server:
            address = server.addresses[0][1]
            attackers = [await Peer.connect(address) for _ in range(50)]
            await until(lambda: server.counters()["redirect_accepted_connections"] == 50)
            assert server.counters()["redirect_connections"] <= 5
            good = await Peer.connect(address, tls.client())
            good.send(request("OPTIONS"))
            assert (await good.answers(1))[0].startswith(b"SIP/2.0 200 ")
            await good.close()
            for attacker in attackers:
                await attacker.close()
            await until(lambda: server.counters()["redirect_connections"] == 0)
            await until(lambda: not server.streams[0]._opening)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("change", "field"),
    [({"key": Path("/nonexistent")}, "certificate"), ({"client_ca": Path("/nonexistent")}, "client_ca")],
)
def test_files_that_cannot_be_used_are_named(tls: Tls, change: dict[str, Path], field: str) -> None:
    files = {"certificate": tls.certificate, "key": tls.key, **change}
    with pytest.raises(ConfigError) as refusal:
        tls_context(RedirectSettings(**files))  # type: ignore[arg-type]
    assert refusal.value.field == field
    assert "/nonexistent" in refusal.value.reason


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"tls": (LOOPBACK,)}, "certificate"),
        ({"tls": (LOOPBACK,), "certificate": Path("c")}, "key"),
        ({"udp": (Listen("127.0.0.1", 65_536),)}, "udp[0].port"),
        ({"max_connections": 0}, "max_connections"),
        ({"idle_seconds": -1.0}, "idle_seconds"),
        ({"message_seconds": float("nan")}, "message_seconds"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        RedirectSettings(**settings)  # type: ignore[arg-type]
    assert refusal.value.field == field
