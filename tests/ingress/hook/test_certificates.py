"""TCP is for clients whose certificate is on the list; everybody else gets nothing."""

import asyncio
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent.ingress.hook.clients import Crowd
from agent.model import ConfigError
from sbcedge.screening.v1 import screening_pb2 as pb
from sbcedge.screening.v1 import screening_pb2_grpc as pb_grpc
from tests.fakes.calls import invite
from tests.fakes.certificates import Authority, Signed
from tests.fakes.waiting import until
from tests.ingress.hook.hooks import PATIENCE, Hook, a_client, a_hook, batch, how_it_ended, request, responses_to

AUTHORITY = Authority()
STRANGER = Authority("another authority")
ALLOWED = ("URI:spiffe://example.net/sbc1", "DNS:sbc2.example.net", "CN:sbc3")


def tls_settings(folder: Path, listen: str = "127.0.0.1:0", **changes: Any) -> dict[str, Any]:
    server = AUTHORITY.sign("hook.example.net")
    files = {"certificate": server.certificate, "key": server.key, "client_ca": AUTHORITY.certificate}
    settings: dict[str, Any] = {"listen": listen, "allowed_clients": ALLOWED}
    for name, content in files.items():
        settings[name] = folder / f"{name}.pem"
        settings[name].write_bytes(content)
    return {**settings, **changes}


@asynccontextmanager
async def a_tls_client(hook: Hook, own: Signed | None) -> AsyncIterator[Any]:
    """A stub over TCP with this certificate, or without one."""
    pair = (own.key, own.certificate) if own else (None, None)
    credentials = grpc.ssl_channel_credentials(AUTHORITY.certificate, *pair)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with aio.secure_channel(hook.server.address, credentials, options=options) as channel:
        yield pb_grpc.ScreeningServiceStub(channel)


@pytest.mark.parametrize(
    "own",
    [
        AUTHORITY.sign("x", uris=("spiffe://example.net/sbc1",)),
        AUTHORITY.sign("x", uris=("spiffe://example.net/other", "spiffe://example.net/sbc1")),
        AUTHORITY.sign("x", dns=("sbc2.example.net",)),
        AUTHORITY.sign("sbc3"),
    ],
    ids=["uri", "second-uri", "dns", "common-name"],
)
def test_a_client_on_the_list_is_served(tmp_path: Path, own: Signed) -> None:
    async def run() -> None:
        async with a_hook(tmp_path, **tls_settings(tmp_path)) as hook, a_tls_client(hook, own) as client:
            answer = await client.Screen(request(invite()), timeout=PATIENCE)
            assert answer.decision == pb.DECISION_ALLOW
            stream = client.ScreenStream(timeout=PATIENCE)
            await stream.write(batch([request(invite(), 3)]))
            assert [a.id for a in await responses_to(stream, 1)] == [3]
            await stream.done_writing()

    asyncio.run(run())


def test_ipv6_is_served_too(tmp_path: Path) -> None:
    async def run() -> None:
        settings = tls_settings(tmp_path, "[::1]:0")
        async with a_hook(tmp_path, **settings) as hook, a_tls_client(hook, AUTHORITY.sign("sbc3")) as client:
            assert hook.server.address.startswith("[::1]:")
            assert (await client.Screen(request(invite()), timeout=PATIENCE)).decision == pb.DECISION_ALLOW

    asyncio.run(run())


@pytest.mark.parametrize(
    "own",
    [
        AUTHORITY.sign("spiffe://example.net/sbc1"),
        AUTHORITY.sign("sbc2.example.net"),
        AUTHORITY.sign("x", dns=("sbc3",)),
        AUTHORITY.sign("SBC3"),
        AUTHORITY.sign(""),
        AUTHORITY.sign("", uris=("spiffe://example.net/sbc1/more",)),
        AUTHORITY.sign("sbc3.example.net"),
    ],
    ids=["uri-as-name", "dns-as-name", "name-as-dns", "another-case", "nameless", "longer-uri", "longer-name"],
)
def test_a_certificate_that_is_not_on_the_list_gets_no_answer(tmp_path: Path, own: Signed) -> None:
    async def run() -> None:
        async with a_hook(tmp_path, **tls_settings(tmp_path)) as hook, a_tls_client(hook, own) as client:
            with pytest.raises(aio.AioRpcError) as refused:
                await client.Screen(request(invite()), timeout=PATIENCE)
            assert refused.value.code() in (StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED)
            stream = client.ScreenStream(timeout=PATIENCE)
            assert (await how_it_ended(stream))[0] in (StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED)
            events = client.ReportEvents(timeout=PATIENCE)
            assert await events.code() in (StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED)
            assert hook.count("strangers") == 3
            assert hook.count("requests") == 0

    asyncio.run(run())


@pytest.mark.parametrize("own", [None, STRANGER.sign("sbc3")], ids=["none", "of-another-authority"])
def test_without_a_certificate_of_the_authority_there_is_not_even_a_connection(
    tmp_path: Path, own: Signed | None
) -> None:
    async def run() -> None:
        async with a_hook(tmp_path, **tls_settings(tmp_path)) as hook, a_tls_client(hook, own) as client:
            with pytest.raises(aio.AioRpcError) as refused:
                await client.Screen(request(invite()), timeout=PATIENCE)
            assert refused.value.code() is StatusCode.UNAVAILABLE
            assert (hook.count("requests"), hook.count("strangers")) == (0, 0)

    asyncio.run(run())


def test_plain_text_on_tcp_gets_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path, **tls_settings(tmp_path)) as hook:
            host, _, port = hook.server.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            said = await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
            assert len(said) <= 7, "a TLS alert at most"

    asyncio.run(run())


def test_who_does_not_agree_on_http_2_is_let_go(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path, **tls_settings(tmp_path)) as hook:
            own = AUTHORITY.sign("sbc3")
            (tmp_path / "own.pem").write_bytes(own.certificate + own.key)
            context = ssl.create_default_context(cadata=AUTHORITY.certificate.decode())
            context.load_cert_chain(tmp_path / "own.pem")
            host, _, port = hook.server.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            with suppress(OSError):
                assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
            writer.close()
            await until(lambda: hook.count("without_http2") == 1)

    asyncio.run(run())


def test_tls_below_1_2_is_not_spoken(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path, **tls_settings(tmp_path)) as hook:
            context = ssl.create_default_context(cadata=AUTHORITY.certificate.decode())
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
            host, _, port = hook.server.address.rpartition(":")
            with pytest.raises(OSError):  # noqa: PT011  SSLError or a connection that is closed
                await asyncio.open_connection(host, int(port), ssl=context)
            await until(lambda: hook.count("handshakes_failed") == 1)

    asyncio.run(run())


def test_health_is_for_this_host_only(tmp_path: Path) -> None:
    async def run() -> None:
        own = AUTHORITY.sign("sbc3")
        async with a_hook(tmp_path, **tls_settings(tmp_path)) as hook:
            credentials = grpc.ssl_channel_credentials(AUTHORITY.certificate, own.key, own.certificate)
            async with aio.secure_channel(hook.server.address, credentials) as channel:
                health: Any = health_pb2_grpc.HealthStub(channel)
                with pytest.raises(aio.AioRpcError) as refused:
                    await health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
                assert refused.value.code() is StatusCode.UNIMPLEMENTED

    asyncio.run(run())


def test_connections_that_never_speak_keep_nobody_out(tmp_path: Path) -> None:
    async def run() -> None:
        settings = tls_settings(tmp_path, max_connections=512)
        async with a_hook(tmp_path, **settings) as hook, a_tls_client(hook, AUTHORITY.sign("sbc3")) as client:
            host, _, port = hook.server.address.rpartition(":")
            silent = [socket.create_connection((host, int(port))) for _ in range(200)]
            try:
                answer = await client.Screen(request(invite()), timeout=PATIENCE)
                assert answer.decision == pb.DECISION_ALLOW
            finally:
                for connection in silent:
                    connection.close()

    asyncio.run(run())


def test_connections_are_bounded_and_tcp_takes_no_place_from_the_local_socket(tmp_path: Path) -> None:
    async def run() -> None:
        settings = tls_settings(tmp_path, max_connections=8)
        async with a_hook(tmp_path, **settings) as hook, a_client(hook) as local:
            host, _, port = hook.server.address.rpartition(":")
            silent = [await asyncio.open_connection(host, int(port)) for _ in range(100)]
            try:
                ended = [asyncio.create_task(_ending(reader)) for reader, _ in silent]
                await until(lambda: sum(task.done() for task in ended) >= 92)
                assert (await local.Screen(request(invite()), timeout=PATIENCE)).decision == pb.DECISION_ALLOW
            finally:
                for _, writer in silent:
                    writer.close()
                await asyncio.gather(*ended)
            async with a_tls_client(hook, AUTHORITY.sign("sbc3")) as client:
                answer = await client.Screen(request(invite()), timeout=PATIENCE, wait_for_ready=True)
                assert answer.decision == pb.DECISION_ALLOW, "there is room again"

    asyncio.run(run())


async def _ending(reader: asyncio.StreamReader) -> None:
    """Returns when the other side has closed, in one way or another."""
    with suppress(OSError):
        await reader.read()


@pytest.mark.parametrize("missing", ["certificate", "key", "client_ca"])
def test_a_file_that_cannot_be_read_is_named_and_nothing_listens(tmp_path: Path, missing: str) -> None:
    async def run() -> None:
        hook = Hook(tmp_path, **{**tls_settings(tmp_path), missing: tmp_path / "absent.pem"})
        with pytest.raises(ConfigError) as refused:
            await hook.server.start()
        assert refused.value.field == f"hook.{missing}"
        assert not hook.path.exists()

    asyncio.run(run())


def test_a_key_that_is_none_is_an_error_of_the_operator(tmp_path: Path) -> None:
    async def run() -> None:
        settings = tls_settings(tmp_path)
        settings["key"].write_bytes(b"no key")
        hook = Hook(tmp_path, **settings)
        with pytest.raises(ConfigError):
            await hook.server.start()
        assert not hook.path.exists()

    asyncio.run(run())


def test_a_crowd_forgets_who_has_left() -> None:
    crowd = Crowd(2)
    assert [crowd.enter("a"), crowd.enter("a"), crowd.enter("a"), crowd.enter("b")] == [True, True, False, True]
    assert (crowd.clients, crowd.in_flight, crowd.turned_away) == (2, 3, 1)
    for client in ("a", "a", "b"):
        crowd.leave(client)
    assert (crowd.clients, crowd.in_flight) == (0, 0)
