"""The API as an ASGI application: from a request to its answer, on one page. Knows no socket and no TLS.

Every answer is JSON and says which request it is for. What a client did wrong, it is told in the words of the report;
what went wrong here is counted, told to `on_failure`, and answered with POL5000. An SBC that gets no verstat from us
lets the call pass unvalidated, so no way out of here keeps it waiting beyond its bound.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agent.identity.model import Failure, Verification, Verstat
from agent.ingress.hook.clients import Crowd
from agent.stir.api.access import Access
from agent.stir.api.documents import read_signing, read_verification, signing_response, verification_response
from agent.stir.api.faults import ApiError, Fault
from agent.stir.api.ports import Signing, UnwillingError, Verifying
from agent.stir.api.settings import StirApiSettings
from agent.stir.api.tally import Tally

JSON: Final = "application/json"
CALLER: Final = "caller"
"""Under this name the connection puts who it is into the state of a request."""

REQUEST_ID_MAX: Final = 128
"""Characters of X-RequestID that we repeat; a UUID has 36."""

HEADERS_MAX: Final = 64
HEADER_BYTES_MAX: Final = 1 << 14
"""Of all headers; those of an SBC have some 300 bytes."""

IAT_SKEW_SECONDS: Final = 60.0
"""A PASSporT that is not of now would be refused as stale by whoever verifies it (RFC 8224 6.1 step 3)."""

RETRY_SECONDS: Final = 1
_NOT_VISIBLE: Final = re.compile(r"[^!-~]", re.ASCII)
_DIGITS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
_QUALITY_ZERO: Final = re.compile(r"q=0(?:\.0{0,3})?", re.ASCII | re.IGNORECASE)


@dataclass(slots=True)
class Caller:
    """Who is at the other end of a connection. `proven` once a request of it was let in."""

    names: tuple[str, ...] = ()
    proven: bool = False


class Api:
    """`signing` None: this agent has no key, and there is no such resource. `wall` gives epoch seconds."""

    def __init__(
        self,
        settings: StirApiSettings,
        access: Access,
        verifying: Verifying,
        signing: Signing | None,
        verstat: Callable[[Verification], Verstat],
        on_failure: Callable[[Exception], None],
        wall: Callable[[], float],
        tally: Tally,
    ) -> None:
        self.crowd = Crowd(settings.max_in_flight)
        self._settings = settings
        self._access = access
        self._verifying = verifying
        self._signing = signing
        self._verstat = verstat
        self._on_failure = on_failure
        self._wall = wall
        self._tally = tally
        base = f"{settings.base_path}/stir/v1"
        self._resources: dict[str, Callable[[bytes], Awaitable[bytes]]] = {f"{base}/verification": self._verify}
        if signing is not None:
            self._resources[f"{base}/signing"] = self._sign

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3, HTTP only."""
        request = Request(scope, receive)
        self._tally.requests += 1
        try:
            response = await self._respond(request)
        except ApiError as error:
            self._tally.count(error)
            response = _refusal(error)
        except ClientDisconnect:
            self._tally.gone += 1
            return
        except Exception as error:  # the one place where any fault of ours ends
            self._tally.failures += 1
            self._on_failure(error)
            response = _refusal(ApiError(Fault.INTERNAL))
        self._mark(response, request)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        _check_headers(request)
        caller: Caller = getattr(request.state, CALLER)
        client = self._access.client(caller.names, request.headers.get("authorization"))
        caller.proven = True
        if not self.crowd.enter(client):
            raise ApiError(Fault.BUSY, "too many requests in flight", headers={"Retry-After": f"{RETRY_SECONDS}"})
        try:
            resource = self._resource(request)
            body = await self._body(request)
            return Response(await resource(body), media_type=JSON)
        finally:
            self.crowd.leave(client)

    def _resource(self, request: Request) -> Callable[[bytes], Awaitable[bytes]]:
        resource = self._resources.get(request.scope["path"])
        if resource is None:
            raise ApiError(Fault.NOT_FOUND)
        if request.method != "POST":
            raise ApiError(Fault.METHOD, headers={"Allow": "POST"})
        accepted = ",".join(request.headers.getlist("accept"))
        if not _accepts_json(accepted):
            raise ApiError(Fault.NOT_ACCEPTABLE, _shown(accepted))
        return resource

    async def _body(self, request: Request) -> bytes:
        """The whole body. Raises ApiError, before it is read where that can be."""
        most = self._settings.max_body
        lengths = request.headers.getlist("content-length")
        if not lengths or "transfer-encoding" in request.headers:
            raise ApiError(Fault.MISSING_LENGTH)
        if not _is_json(request):
            raise ApiError(Fault.UNSUPPORTED_TYPE, JSON)
        if not _DIGITS.fullmatch(lengths[0]) or int(lengths[0]) > most:
            raise ApiError(Fault.TOO_LARGE, f"longer than {most} bytes")
        body = b"".join([chunk async for chunk in request.stream()])  # the server holds it to its Content-Length
        if not body:
            raise ApiError(Fault.MISSING_BODY)
        return body

    # -- what is asked ----------------------------------------------------------------------------------------------

    async def _verify(self, body: bytes) -> bytes:
        order = read_verification(body)
        patience = self._settings.answer_seconds
        try:
            async with asyncio.timeout(patience):
                result = await self._verifying.verify(order.values, order.call, self._wall())
        except TimeoutError:  # what is waited for is the certificate: no reason to say that the caller is not who he is
            self._tally.late += 1
            result = Verification(Failure.UNREACHABLE, f"no result within {patience:g} s")
        self._tally.passed += result.valid
        self._tally.not_passed += not result.valid
        return verification_response(result, self._verstat(result))

    async def _sign(self, body: bytes) -> bytes:
        order = read_signing(body)
        when = self._wall()
        if abs(order.iat - when) > IAT_SKEW_SECONDS:
            raise ApiError(Fault.INVALID_PARAMETER, "iat", f"more than {IAT_SKEW_SECONDS:g} s from now")
        assert self._signing is not None
        try:
            async with asyncio.timeout(self._settings.answer_seconds):
                identity = await self._signing.sign(order, when)
        except UnwillingError as error:
            raise ApiError(Fault.INVALID_PARAMETER, error.parameter, error.why) from None
        self._tally.signed += 1
        return signing_response(identity)

    def _mark(self, response: Response, request: Request) -> None:
        """Say when, for which request and by which instance."""
        headers = response.headers
        headers["Date"] = formatdate(self._wall(), usegmt=True)
        request_id = _NOT_VISIBLE.sub("", request.headers.get("x-requestid", ""))[:REQUEST_ID_MAX]
        if request_id:
            headers["X-RequestID"] = request_id
        if self._settings.instance:
            headers["X-InstanceID"] = self._settings.instance


def _refusal(error: ApiError) -> Response:
    return Response(error.fault.body(*error.variables), error.fault.status, error.headers, JSON)


def _check_headers(request: Request) -> None:
    """The HTTP server bounds what is not complete yet; a block that comes at once is bounded here."""
    headers = request.headers.raw
    if len(headers) > HEADERS_MAX or sum(len(name) + len(value) for name, value in headers) > HEADER_BYTES_MAX:
        raise ApiError(Fault.HEADERS_TOO_LARGE, "headers too large")


def _accepts_json(accept: str) -> bool:
    """Whether one of its media ranges has JSON in it (RFC 9110 12.5.1); no header accepts everything."""
    if not accept:
        return True
    for element in accept.split(","):
        kind, *parameters = (part.strip() for part in element.split(";"))
        refused = any(_QUALITY_ZERO.fullmatch(parameter) for parameter in parameters)
        if kind.lower() in (JSON, "application/*", "*/*") and not refused:
            return True
    return False


def _is_json(request: Request) -> bool:
    """Whether the body says that it is JSON as we read it: UTF-8 (RFC 8259 8.1), not compressed."""
    kind, *parameters = (part.strip().lower() for part in request.headers.get("content-type", "").split(";"))
    charsets = [part.removeprefix("charset=").strip('"') for part in parameters if part.startswith("charset=")]
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    return kind == JSON and coding == "identity" and all(charset == "utf-8" for charset in charsets)


def _shown(text: str) -> str:
    return _NOT_VISIBLE.sub("", text)[:REQUEST_ID_MAX]
