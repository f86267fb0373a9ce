"""One GET by https to wherever a stranger pointed: bounded in time, in bytes, in hops, and in what it may reach.

A host name is resolved once, its addresses are checked, and the connection goes to exactly the address that was
checked, so that a name that changes its mind between check and use (DNS rebinding) changes nothing. TLS is verified for
the name in the URL. Every redirect passes the whole policy again. Knows nothing of certificates as credentials, keeps
nothing, and raises nothing but FetchError.
"""

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import httpcore

from agent.identity.x5u import DEFAULT_PORT, Location, check_url, locate
from agent.model import ConfigError
from agent.stir.addresses import Network, why_not
from agent.stir.caching import Headers

REDIRECTS_MAX: Final = 2
"""A repository that moved, and the one time that it moved before that."""

ADDRESSES_TRIED: Final = 3
"""Of one host: with an address of each family one dead one still leaves a spare."""

HEAD_BYTES: Final = 16 << 10
"""Of an answer, beyond its body: head, interim answers, frames of chunks. Real ones have less than a kilobyte; each
small piece costs some 30 us to parse, so this is also what a hostile answer costs in time: a tenth of a second."""

READ_BYTES: Final = 2 << 10
"""At one time. What is read is parsed in one go, and whoever shares the event loop waits for it."""

LOCATION_MAX: Final = 4 << 10
"""Of a redirect's target, in bytes, before it is even looked at."""

_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_REQUEST_HEADERS: Final = (
    # ATIS-1000074 and RFC 9060 name PEM; some repositories of the field answer with DER or as plain text.
    (b"Accept", b"application/pem-certificate-chain, application/pkix-cert, application/x-pem-file, */*;q=0.5"),
    # Nothing is unpacked, so that nothing can unpack to a gigabyte.
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", b"sbc-edge-agent"),
    (b"Connection", b"close"),
)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Trouble(StrEnum):
    """Why there is nothing: the kinds that are counted apart."""

    REFUSED = "refused"  # by our rules: form of the URL, special-purpose address
    NAME = "name"  # the host name does not resolve
    CONNECTION = "connection"  # refused, unreachable, cut
    TLS = "tls"
    TIME = "time"
    STATUS = "status"  # an answer, but no 200
    REDIRECT = "redirect"  # too many, or to nowhere
    SIZE = "size"
    PROTOCOL = "protocol"  # no HTTP, compressed, or cut short


class FetchError(Exception):
    """There is no body. `why` in words for the log: "404 Not Found"."""

    def __init__(self, trouble: Trouble, why: str) -> None:
        super().__init__(why)
        self.trouble = trouble
        self.why = why


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer of 200. `headers` as sent; those of the last hop, if there were several."""

    body: bytes
    headers: Headers


@dataclass(frozen=True, slots=True)
class FetchRules:
    """What a fetch may do; times in seconds. `seconds` is for all of it, `connect_seconds` for each address."""

    ports: tuple[int, ...]
    allowed: tuple[Network, ...]
    seconds: float
    connect_seconds: float
    body_bytes: int


class Fetcher:
    """Fetches by rules. Stateless: every fetch has a connection of its own."""

    def __init__(self, rules: FetchRules, tls: ssl.SSLContext) -> None:
        self._rules = rules
        self._tls = tls
        self._backend: httpcore.AsyncNetworkBackend = httpcore.AnyIOBackend()

    async def fetch(self, url: str, resolve: Resolve) -> Fetched:
        """The body at `url`, redirects followed. Raises FetchError."""
        at = _Progress("resolving the host name")
        try:
            async with asyncio.timeout(self._rules.seconds):
                return await self._follow(url, resolve, at)
        except TimeoutError:
            raise FetchError(Trouble.TIME, f"{at.doing}: not done within {self._rules.seconds:g} s") from None

    async def _follow(self, url: str, resolve: Resolve, at: "_Progress") -> Fetched:
        for _ in range(REDIRECTS_MAX + 1):
            if why := check_url(url, self._rules.ports):
                raise FetchError(Trouble.REFUSED, why)
            answer = await self._get(locate(url), resolve, at)
            if isinstance(answer, Fetched):
                return answer
            url = urljoin(url, answer)
        raise FetchError(Trouble.REDIRECT, f"more than {REDIRECTS_MAX} redirects")

    async def _get(self, location: Location, resolve: Resolve, at: "_Progress") -> "Fetched | str":
        """One hop: the answer, or where it points to."""
        at.doing, at.body = "resolving the host name", 0
        addresses = await self._addresses(location, resolve)
        at.doing = "connecting"
        stream = await self._connect(addresses, location.port)
        try:
            at.doing = "TLS handshake"
            return await self._exchange(_Counted(stream, at), location, at)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise _in_words(error, at.doing) from error
        finally:
            await stream.aclose()

    async def _addresses(self, location: Location, resolve: Resolve) -> list[str]:
        """Those of the host that may be connected to. The check is here; nothing resolves the name again."""
        try:
            found = await resolve(location.host, location.port)
        except OSError as error:
            raise FetchError(Trouble.NAME, f"{location.host}: {error.strerror or error}") from None
        faults = {address: why_not(address, self._rules.allowed) for address in found}
        good = [address for address, fault in faults.items() if not fault]
        if not good:
            words = "; ".join(f"{address} {fault}" for address, fault in list(faults.items())[:2])
            raise FetchError(Trouble.REFUSED, f"{location.host}: {words or 'has no address'}")
        return good[:ADDRESSES_TRIED]

    async def _connect(self, addresses: Iterable[str], port: int) -> httpcore.AsyncNetworkStream:
        trouble: FetchError | None = None
        for address in addresses:
            try:
                return await self._backend.connect_tcp(address, port, self._rules.connect_seconds)
            except httpcore.ConnectTimeout:
                why = f"{address} port {port}: not connected within {self._rules.connect_seconds:g} s"
                trouble = FetchError(Trouble.TIME, why)
            except httpcore.ConnectError as error:
                trouble = FetchError(Trouble.CONNECTION, f"{address} port {port}: {_reason(error)}")
        assert trouble is not None
        raise trouble

    async def _exchange(self, stream: "_Counted", location: Location, at: "_Progress") -> "Fetched | str":
        url = httpcore.URL(
            scheme=b"https", host=location.host.encode(), port=location.port, target=location.target.encode()
        )
        request = httpcore.Request(b"GET", url, headers=[(b"Host", _host(location)), *_REQUEST_HEADERS])
        connection = httpcore.AsyncHTTPConnection(url.origin, self._tls, network_backend=_Connected(stream))
        async with connection:
            response = await connection.handle_async_request(request)
            at.doing = "reading the body"
            async with aclosing(response):
                if response.status in _REDIRECTS:
                    return _target(response.headers)
                _check_head(response, self._rules.body_bytes)
                return Fetched(await self._body(response, at), tuple(response.headers))

    async def _body(self, response: httpcore.Response, at: "_Progress") -> bytes:
        body = bytearray()
        async for chunk in response.aiter_stream():
            body += chunk
            at.body = len(body)
            if len(body) > self._rules.body_bytes:
                raise _too_large(self._rules.body_bytes)
        return bytes(body)


def tls_context(https_ca: Path | None) -> ssl.SSLContext:
    """Who is believed to be the server of a host name. Reads files. Raises ConfigError naming `https_ca`."""
    try:
        return ssl.create_default_context(cafile=https_ca)
    except ssl.SSLError as error:
        raise ConfigError("https_ca", f"{https_ca}: {error.reason or error}") from None
    except OSError as error:
        raise ConfigError("https_ca", f"{https_ca}: {error.strerror or error}") from None


@dataclass(slots=True)
class _Progress:
    """What a fetch is at, for the words of a time-out; and how many bytes of the body there are."""

    doing: str
    body: int = 0


class _Connected(httpcore.AsyncNetworkBackend):
    """For httpcore, a network in which there is one connection, made before: it has no way to another address."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def connect_tcp(self, *_: object, **__: object) -> httpcore.AsyncNetworkStream:
        return self._stream


class _Counted(httpcore.AsyncNetworkStream):
    """A stream that gives few bytes at one time, and besides the body not many at all."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, at: _Progress) -> None:
        self._stream = stream
        self._read = 0
        self._at = at

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._stream.read(min(max_bytes, READ_BYTES), timeout)
        self._read += len(data)
        if self._read - self._at.body > HEAD_BYTES + READ_BYTES:  # what was read last may all be body
            raise FetchError(Trouble.SIZE, f"answer has more than {HEAD_BYTES} bytes besides its body")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        encrypted = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        self._at.doing = "waiting for the answer"
        return _Counted(encrypted, self._at)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _host(location: Location) -> bytes:
    host = f"[{location.host}]" if ":" in location.host else location.host
    return (host if location.port == DEFAULT_PORT else f"{host}:{location.port}").encode()


def _target(headers: Headers) -> str:
    """Where a redirect points to: text of a URL, not yet judged."""
    targets = {value for name, value in headers if name.lower() == b"location"}
    if len(targets) != 1:
        raise FetchError(Trouble.REDIRECT, "redirect to nowhere" if not targets else "redirect to several places")
    (target,) = targets
    if not target.isascii() or len(target) > LOCATION_MAX:
        raise FetchError(Trouble.REDIRECT, "redirect to what is no URL")
    return target.decode("ascii")


def _check_head(response: httpcore.Response, most: int) -> None:
    """Raise FetchError where the head says already that the body is of no use."""
    if response.status != HTTPStatus.OK:
        raise FetchError(Trouble.STATUS, _status(response.status))
    fields = {name.lower(): value for name, value in response.headers}
    if (coding := fields.get(b"content-encoding", b"identity").strip().lower()) != b"identity":
        shown = coding[:16].decode("ascii", "replace")
        raise FetchError(Trouble.PROTOCOL, f"answer is compressed ({shown}), which was not asked for")
    if int(fields.get(b"content-length", b"0")) > most:  # h11 has checked that it is one number of few digits
        raise _too_large(most)


def _status(code: int) -> str:
    try:
        return f"{code} {HTTPStatus(code).phrase}"  # not the server's phrase, which is a stranger's text
    except ValueError:
        return f"status {code}"


def _too_large(most: int) -> FetchError:
    return FetchError(Trouble.SIZE, f"answer is larger than {most} bytes")


def _in_words(error: Exception, doing: str) -> FetchError:
    """What a library's exception means."""
    if isinstance(error, httpcore.ProtocolError):
        return FetchError(Trouble.PROTOCOL, f"{doing}: {str(error)[:160]}")
    if isinstance(error.__cause__, ssl.SSLError):
        return FetchError(Trouble.TLS, _tls_reason(error.__cause__))
    if isinstance(error, httpcore.TimeoutException):
        return FetchError(Trouble.TIME, f"{doing}: took too long")
    return FetchError(Trouble.CONNECTION, f"{doing}: {_reason(error)}")


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate of the https server: {error.verify_message}"
    return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"


def _reason(error: BaseException) -> str:
    """The words of the operating system, which libraries wrap in exceptions of their own."""
    cause: BaseException | None = error
    for _ in range(5):
        if isinstance(cause, ssl.SSLError):
            return _tls_reason(cause)
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)  # asyncio puts other words into `strerror`
        cause = cause.__cause__ or cause.__context__ if cause is not None else None
    return str(error)[:160] or "connection lost"
