"""TLS and certificates of clients: who is on the list is served, everybody else gets nothing of worth."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.certificates import Authority, Signed
from tests.fakes.waiting import until
from tests.stir.api.apis import (
    PATIENCE,
    TOKEN,
    Pen,
    Running,
    error_of,
    pem_files,
    serve,
    signing,
    token_file,
    verification,
)

AUTHORITY = Authority()
STRANGER = Authority("another authority")
ALLOWED = ("URI:spiffe://example.net/sbc1", "DNS:sbc2.example.net", "CN:sbc3")
VERIFY, SIGN = "/stir/v1/verification", "/stir/v1/signing"


def mutual(folder: Path, **changes: Any) -> dict[str, Any]:
    """The settings of a listener for certified clients, which is open to other hosts as far as they know."""
    files = pem_files(folder, AUTHORITY.sign("api.example.net"), AUTHORITY)
    return {"listen": "0.0.0.0:0", **files, "allowed_clients": ALLOWED, **changes}


def context_of(folder: Path, own: Signed | None) -> ssl.SSLContext:
    """A client's TLS: trusts our authority, and shows `own`."""
    context = ssl.create_default_context(cadata=AUTHORITY.certificate.decode())
    if own is not None:
        file = folder / "client.pem"
        file.write_bytes(own.certificate + own.key)
        context.load_cert_chain(file)
    return context


def at_loopback(api: Running) -> None:
    """Ask where the certificate is good for; the listener is at every address."""
    api.server.address = ("127.0.0.1", api.server.address[1])


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
    async def use(api: Running) -> None:
        at_loopback(api)
        async with api.client(verify=context_of(tmp_path, own)) as client:
            assert (await client.post(VERIFY, json=verification())).status_code == 200
            assert (await client.post(SIGN, json=signing())).status_code == 200
        assert api.server.health()[1].startswith("https://")

    serve(use, pen=Pen(), **mutual(tmp_path))


@pytest.mark.parametrize(
    "own",
    [AUTHORITY.sign("sbc4"), AUTHORITY.sign("", dns=("sbc3", "sbc2.example.net.evil.example")), AUTHORITY.sign("SBC3")],
    ids=["other-name", "other-kind", "other-case"],
)
def test_a_good_certificate_that_is_not_on_the_list_is_refused(tmp_path: Path, own: Signed) -> None:
    pen = Pen()

    async def use(api: Running) -> None:
        at_loopback(api)
        async with api.client(verify=context_of(tmp_path, own)) as client:
            expected = (403, "POL0001", ["certificate is not on the list of clients"])
            assert error_of(await client.post(SIGN, json=signing())) == expected
        assert api.count("unauthorised") == 1

    serve(use, pen=pen, **mutual(tmp_path))
    assert not pen.orders


@pytest.mark.parametrize("own", [None, STRANGER.sign("sbc3")], ids=["none", "of-a-stranger"])
def test_without_a_certificate_of_ours_there_is_no_connection(tmp_path: Path, own: Signed | None) -> None:
    pen = Pen()

    async def use(api: Running) -> None:
        at_loopback(api)
        async with api.client(verify=context_of(tmp_path, own)) as client:
            with pytest.raises((httpx.TransportError, ssl.SSLError)):
                await client.post(SIGN, json=signing())
        await until(lambda: api.count("handshakes_failed") == 1)
        assert api.count("requests") == 0
        assert not api.faults

    serve(use, pen=pen, **mutual(tmp_path))
    assert not pen.orders


def test_who_speaks_without_tls_gets_nothing(tmp_path: Path) -> None:
    async def use(api: Running) -> None:
        at_loopback(api)
        async with api.client() as client:
            with pytest.raises(httpx.TransportError):
                await client.post(VERIFY, json=verification())
        await until(lambda: api.count("handshakes_failed") == 1)

    serve(use, **mutual(tmp_path))


def test_old_tls_is_not_spoken(tmp_path: Path) -> None:
    async def use(api: Running) -> None:
        at_loopback(api)
        context = context_of(tmp_path, AUTHORITY.sign("sbc3"))
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        async with api.client(verify=context) as client:
            with pytest.raises(httpx.ConnectError):
                await client.post(VERIFY, json=verification())

    serve(use, **mutual(tmp_path))


def test_a_token_over_tls_needs_no_certificate(tmp_path: Path) -> None:
    async def use(api: Running) -> None:
        at_loopback(api)
        async with api.client(verify=context_of(tmp_path, None)) as client:
            assert (await client.post(VERIFY, json=verification())).status_code == 401
            headers = {"Authorization": f"Bearer {TOKEN}"}
            assert (await client.post(VERIFY, json=verification(), headers=headers)).status_code == 200

    files = pem_files(tmp_path, AUTHORITY.sign("api.example.net"))
    serve(use, listen="0.0.0.0:0", token_file=token_file(tmp_path), **files)


def test_a_certificate_alone_does_not_do_where_a_token_is_asked_for_too(tmp_path: Path) -> None:
    async def use(api: Running) -> None:
        at_loopback(api)
        async with api.client(verify=context_of(tmp_path, AUTHORITY.sign("sbc3"))) as client:
            assert (await client.post(VERIFY, json=verification())).status_code == 401
            headers = {"Authorization": f"Bearer {TOKEN}"}
            assert (await client.post(VERIFY, json=verification(), headers=headers)).status_code == 200

    serve(use, **mutual(tmp_path, token_file=token_file(tmp_path)))


def test_a_handshake_that_does_not_come_is_cut_off(tmp_path: Path) -> None:
    async def use(api: Running) -> None:
        with socket.create_connection(("127.0.0.1", api.server.address[1])) as silent:
            await until(lambda: api.count("connections") == 1)
            await until(lambda: api.count("handshakes_failed") + api.count("cut_slow") > 0)
            silent.setblocking(False)
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(silent, 100), PATIENCE)
            assert not data
        assert "0 connections" in api.server.health()[1]

    serve(use, **mutual(tmp_path, request_seconds=0.1, answer_seconds=0.1))
