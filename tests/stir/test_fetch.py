"""One GET to wherever a stranger pointed: good servers, bad ones, and those that should never be reached."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.model import ConfigError
from agent.stir.addresses import read_network
from agent.stir.fetch import HEAD_BYTES, Fetched, FetchError, Trouble, tls_context
from tests.fakes.certificate_server import (
    HOST,
    CertificateServer,
    Handler,
    endless,
    gzip_bomb,
    head,
    page,
    raw,
    redirect,
    serving,
    silence,
)
from tests.fakes.certificates import Authority
from tests.stir.fetching import BODY_BYTES, Names, fetcher

PEM = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
AUTHORITY = Authority("https authority")


def get(pages: Mapping[str, Handler], path: str = "/1.pem", names: Names | None = None, **rules: Any) -> Fetched:
    """What a fetch of the path brings, from a server with these pages."""

    async def main() -> Fetched:
        async with serving(pages, AUTHORITY) as server:
            return await fetcher(server, AUTHORITY, **rules).fetch(server.url(path), names or Names())

    return asyncio.run(main())


def trouble(pages: Mapping[str, Handler], path: str = "/1.pem", **rules: Any) -> tuple[Trouble, str]:
    """Why a fetch brings nothing."""
    with pytest.raises(FetchError) as caught:
        get(pages, path, **rules)
    return caught.value.trouble, caught.value.why


# --- good ones


def test_body_and_headers_come_as_sent() -> None:
    fetched = get({"/1.pem": page(PEM, headers={"Cache-Control": "max-age=300"})})
    assert fetched.body == PEM
    assert (b"Cache-Control", b"max-age=300") in fetched.headers


def test_chunked_body_is_put_together() -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (1, bytes([byte])) for byte in PEM) + b"0\r\n\r\n"
    assert get({"/1.pem": raw(head(200, {"Transfer-Encoding": "chunked"}) + chunks)}).body == PEM


def test_body_without_length_ends_with_the_connection() -> None:
    assert get({"/1.pem": raw(b"HTTP/1.0 200 OK\r\n\r\n" + PEM)}).body == PEM


def test_body_of_just_the_bound_is_taken_and_one_byte_more_is_not() -> None:
    assert get({"/1.pem": page(bytes(BODY_BYTES))}).body == bytes(BODY_BYTES)
    assert trouble({"/1.pem": page(bytes(BODY_BYTES + 1))})[0] is Trouble.SIZE


def test_request_names_host_and_target_as_written_and_asks_for_no_compression() -> None:
    async def main() -> None:
        async with serving({"/a/../%7e1.pem": page(PEM)}, AUTHORITY) as server:
            await fetcher(server, AUTHORITY).fetch(server.url("/a/../%7e1.pem"), Names())
            lines = server.heads[0].lower().split(b"\r\n")
            assert lines[0] == b"get /a/../%7e1.pem http/1.1"
            assert f"host: {HOST}:{server.port}".encode() in lines
            assert b"accept-encoding: identity" in lines
            assert server.names == [HOST]

    asyncio.run(main())


def test_address_in_the_url_is_checked_against_the_certificate_without_sni() -> None:
    async def main() -> None:
        async with serving({"/1.pem": page(PEM)}, AUTHORITY) as server:
            url = server.url("/1.pem", "127.0.0.1")
            assert (await fetcher(server, AUTHORITY).fetch(url, Names({"127.0.0.1": ["127.0.0.1"]}))).body == PEM
            assert server.names == [None]

    asyncio.run(main())


def test_ipv6_is_spoken() -> None:
    async def main() -> None:
        server = CertificateServer(AUTHORITY.sign(dns=(HOST,)), {"/1.pem": page(PEM)})
        await server.start(address="::1")
        names = Names({HOST: ["::1"], "::1": ["::1"]})
        try:
            for host in (HOST, "[::1]"):
                assert (await fetcher(server, AUTHORITY).fetch(server.url("/1.pem", host), names)).body == PEM
            assert f"host: [::1]:{server.port}".encode() in server.heads[1].lower()
        finally:
            await server.stop()

    asyncio.run(main())


def test_dead_address_gives_way_to_the_next() -> None:
    names = Names({HOST: ["127.0.0.2", "127.0.0.1"]})
    assert get({"/1.pem": page(PEM)}, names=names).body == PEM


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_followed(status: int) -> None:
    assert get({"/1.pem": redirect("/2.pem", status), "/2.pem": page(PEM)}).body == PEM


def test_two_redirects_are_followed_and_a_third_is_not() -> None:
    pages = {"/1": redirect("/2"), "/2": redirect("/3"), "/3": page(PEM), "/0": redirect("/1")}
    assert get(pages, "/1").body == PEM
    assert trouble(pages, "/0") == (Trouble.REDIRECT, "more than 2 redirects")


# --- where it must not go


def test_loopback_is_refused_by_default_and_nothing_connects() -> None:
    async def main() -> None:
        async with serving({"/1.pem": page(PEM)}, AUTHORITY) as server:
            names = Names({HOST: ["127.0.0.1", "::1"], "127.0.0.1": ["127.0.0.1"]})
            for host in (HOST, "127.0.0.1"):
                with pytest.raises(FetchError) as caught:
                    await fetcher(server, AUTHORITY, allowed=()).fetch(server.url("/1.pem", host), names)
                assert caught.value.trouble is Trouble.REFUSED
                assert "127.0.0.1 is of 127.0.0.0/8 (loopback, RFC 1122)" in caught.value.why
            assert server.names == []

    asyncio.run(main())


def test_special_address_among_good_ones_is_never_connected_to() -> None:
    """The private address is where the server listens: it would answer."""

    async def main() -> None:
        async with serving({"/1.pem": page(PEM)}, AUTHORITY) as server:
            names = Names({HOST: ["127.0.0.1", "127.0.0.2"]})
            allowed = fetcher(server, AUTHORITY, allowed=[read_network("127.0.0.2")])
            with pytest.raises(FetchError) as caught:
                await allowed.fetch(server.url("/1.pem"), names)
            assert caught.value.trouble is Trouble.CONNECTION
            assert caught.value.why.startswith("127.0.0.2 port")
            assert server.names == []

    asyncio.run(main())


def test_name_that_changes_between_check_and_use_changes_nothing() -> None:
    """DNS rebinding: the first answer is one that may be connected to, every later one is not."""

    class Rebinding(Names):
        def look_up(self, host: str, port: int) -> list[str]:
            return ["127.0.0.1"] if len(self.asked) == 1 else ["169.254.169.254"]

    names = Rebinding()
    assert get({"/1.pem": page(PEM)}, names=names).body == PEM
    assert names.asked == [HOST]


def test_every_hop_of_a_redirect_passes_the_whole_policy() -> None:
    names = Names({HOST: ["127.0.0.1"], "internal.example.net": ["10.0.0.1"]})
    for to, why in {
        "http://certs.example.net/1.pem": "URL is not https",
        "https://certs.example.net:22/1.pem": "port 22 of the URL is not ",
        "https://someone@certs.example.net/1.pem": "URL has user information",
        "/2.pem?token=1": "URL has a query",
        "/2.pem#part": "URL has a fragment",
        "//127.1/2.pem": "host of the URL is a number, but no IPv4 address",
        "file:///etc/passwd": "URL is not https",
    }.items():
        kind, words = trouble({"/1.pem": redirect(to)}, names=names)
        assert kind is Trouble.REFUSED
        assert words.startswith(why)


def test_redirect_to_a_private_address_is_refused() -> None:
    async def main() -> None:
        async with serving({}, AUTHORITY) as server:
            server.pages["/1.pem"] = redirect(server.url("/latest/meta-data/", "internal.example.net"))
            names = Names({HOST: ["127.0.0.1"], "internal.example.net": ["169.254.169.254"]})
            with pytest.raises(FetchError, match=r"169\.254\.169\.254 is of 169\.254\.0\.0/16") as caught:
                await fetcher(server, AUTHORITY).fetch(server.url("/1.pem"), names)
            assert caught.value.trouble is Trouble.REFUSED

    asyncio.run(main())


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (b"", "redirect to nowhere"),
        (b"Location: /2.pem\r\nLocation: /3.pem\r\n", "redirect to several places"),
        (b"Location: /\xff\r\n", "redirect to what is no URL"),
        (b"Location: /" + b"a" * 5000 + b"\r\n", "redirect to what is no URL"),
    ],
)
def test_redirect_to_nothing_is_no_redirect(rows: bytes, why: str) -> None:
    answer = raw(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n" + rows + b"\r\n")
    assert trouble({"/1.pem": answer, "/2.pem": page(PEM)}) == (Trouble.REDIRECT, why)


def test_redirect_to_itself_ends() -> None:
    assert trouble({"/1.pem": redirect("/1.pem")})[0] is Trouble.REDIRECT


# --- servers that answer badly


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (404, "404 Not Found"),
        (500, "500 Internal Server Error"),
        (204, "204 No Content"),
        (206, "206 Partial Content"),
        (304, "304 Not Modified"),
        (300, "300 Multiple Choices"),
        (799, "status 799"),
    ],
)
def test_any_status_but_200_is_none(status: int, why: str) -> None:
    assert trouble({"/1.pem": raw(head(status, {}))}) == (Trouble.STATUS, why)


def test_body_that_never_ends_is_cut_at_the_bound() -> None:
    for pages in (
        endless(b"HTTP/1.1 200 OK\r\n\r\n", bytes(4096)),
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + bytes(4096) + b"\r\n"),
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 900 + b"\r\nx\r\n"),
    ):
        assert trouble({"/1.pem": pages})[0] is Trouble.SIZE


def test_body_announced_too_large_is_not_read() -> None:
    answer = raw(head(200, {"Content-Length": "10000000000"}))
    assert trouble({"/1.pem": answer}) == (Trouble.SIZE, "answer is larger than 65536 bytes")


def test_interim_answers_without_end_are_cut() -> None:
    assert trouble({"/1.pem": endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")})[0] is Trouble.SIZE


def test_huge_headers_are_cut() -> None:
    for start in (b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n", b""):
        kind, _ = trouble({"/1.pem": endless(start, b"y: " + b"x" * 1000 + b"\r\n" if start else b"x" * 1000)})
        assert kind in {Trouble.SIZE, Trouble.PROTOCOL}


def test_long_headers_within_the_bound_are_taken() -> None:
    assert get({"/1.pem": page(PEM, headers={"X": "x" * (HEAD_BYTES // 2)})}).body == PEM


def test_nothing_is_unpacked() -> None:
    kind, why = trouble({"/1.pem": gzip_bomb()})
    assert (kind, why) == (Trouble.PROTOCOL, "answer is compressed (gzip), which was not asked for")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0" * 100,
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9" + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_what_is_no_http_is_named(answer: bytes) -> None:
    kind, why = trouble({"/1.pem": raw(answer)})
    assert kind in {Trouble.PROTOCOL, Trouble.STATUS}
    assert why.isprintable()


def test_connection_cut_in_the_body_is_named() -> None:
    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.write(head(200, {"Content-Length": "100"}) + b"half")
        await writer.drain()
        writer.transport.abort()

    assert trouble({"/1.pem": cut})[0] in {Trouble.PROTOCOL, Trouble.CONNECTION}


# --- time


def test_silent_server_ends_with_the_time() -> None:
    kind, why = trouble({"/1.pem": silence}, seconds=0.3)
    assert (kind, why) == (Trouble.TIME, "waiting for the answer: not done within 0.3 s")


def test_trickling_server_ends_with_the_time() -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(head(200, {}))
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    begun = time.monotonic()
    assert trouble({"/1.pem": trickle}, seconds=0.3) == (Trouble.TIME, "reading the body: not done within 0.3 s")
    assert time.monotonic() - begun < 5


def test_time_is_for_all_hops_together() -> None:
    pages = {"/1.pem": redirect("/2.pem"), "/2.pem": redirect("/3.pem"), "/3.pem": silence}
    assert trouble(pages, seconds=0.3)[0] is Trouble.TIME


def test_resolver_that_does_not_answer_ends_with_the_time() -> None:
    async def hangs(_host: str, _port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    async def main() -> None:
        with pytest.raises(FetchError) as caught:
            await fetcher(None, AUTHORITY, seconds=0.2, ports=(443,)).fetch(f"https://{HOST}/1.pem", hangs)
        assert caught.value.trouble is Trouble.TIME
        assert caught.value.why == "resolving the host name: not done within 0.2 s"

    asyncio.run(main())


def test_server_without_tls_handshake_ends_with_the_time() -> None:
    async def main() -> None:
        async def mute(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)

        writers: list[asyncio.StreamWriter] = []
        plain = await asyncio.start_server(mute, "127.0.0.1", 0)
        port = plain.sockets[0].getsockname()[1]
        with pytest.raises(FetchError) as caught:
            await fetcher(None, AUTHORITY, seconds=0.2, ports=(port,)).fetch(f"https://{HOST}:{port}/", Names())
        assert caught.value.why == "TLS handshake: not done within 0.2 s"
        for writer in writers:
            writer.close()
            await writer.wait_closed()
        plain.close()
        await plain.wait_closed()

    asyncio.run(main())


def test_cancelled_fetch_leaves_no_connection() -> None:
    async def main() -> None:
        async with serving({"/1.pem": silence}, AUTHORITY) as server:
            task = asyncio.create_task(fetcher(server, AUTHORITY).fetch(server.url("/1.pem"), Names()))
            while not server.asked["/1.pem"]:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())  # a connection left open is a ResourceWarning, and with that an error


# --- name, connection, TLS


def test_unknown_host_is_named() -> None:
    kind, why = trouble({}, names=Names({"other.example.net": ["127.0.0.1"]}))
    assert (kind, why) == (Trouble.NAME, f"{HOST}: Name or service not known")


def test_host_without_address_is_refused() -> None:
    assert trouble({}, names=Names({HOST: []})) == (Trouble.REFUSED, f"{HOST}: has no address")


def test_dead_port_is_named() -> None:
    async def main() -> None:
        async with serving({}, AUTHORITY) as server:
            url, port = server.url("/1.pem"), server.port
        with pytest.raises(FetchError) as caught:
            await fetcher(None, AUTHORITY, ports=(port,)).fetch(url, Names())
        assert caught.value.trouble is Trouble.CONNECTION
        assert caught.value.why == f"127.0.0.1 port {port}: Connection refused"

    asyncio.run(main())


def test_certificate_for_another_host_is_refused() -> None:
    names = Names({"other.example.net": ["127.0.0.1"]})

    async def main() -> None:
        async with serving({"/1.pem": page(PEM)}, AUTHORITY) as server:
            with pytest.raises(FetchError) as caught:
                await fetcher(server, AUTHORITY).fetch(server.url("/1.pem", "other.example.net"), names)
            assert caught.value.trouble is Trouble.TLS
            assert "Hostname mismatch" in caught.value.why
            assert not server.asked

    asyncio.run(main())


def test_certificate_of_an_unknown_authority_is_refused() -> None:
    async def main() -> None:
        async with serving({"/1.pem": page(PEM)}, Authority("somebody")) as server:
            with pytest.raises(FetchError) as caught:
                await fetcher(server, AUTHORITY).fetch(server.url("/1.pem"), Names())
            assert caught.value.trouble is Trouble.TLS
            assert caught.value.why.startswith("certificate of the https server: ")
            assert not server.asked

    asyncio.run(main())


def test_server_that_speaks_no_tls_is_named() -> None:
    async def main() -> None:
        async def plain_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()
            await writer.wait_closed()

        plain = await asyncio.start_server(plain_http, "127.0.0.1", 0)
        port = plain.sockets[0].getsockname()[1]
        with pytest.raises(FetchError) as caught:
            await fetcher(None, AUTHORITY, ports=(port,)).fetch(f"https://{HOST}:{port}/", Names())
        assert caught.value.trouble in {Trouble.TLS, Trouble.CONNECTION}
        plain.close()
        await plain.wait_closed()

    asyncio.run(main())


# --- authorities


def test_https_ca_is_read(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(AUTHORITY.certificate)
    context = tls_context(file)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.cert_store_stats()["x509_ca"] == 1


def test_https_ca_that_cannot_be_read_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    for content in (None, b"", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"):
        file = tmp_path / "ca.pem"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            tls_context(file)
        assert caught.value.field == "https_ca"
