"""An API that listens on loopback, what answers behind it, and requests to it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from agent.identity.model import SignalledCall, Verification
from agent.stir.api.documents import SigningOrder
from agent.stir.api.ports import UnwillingError
from agent.stir.api.server import StirApiServer
from agent.stir.api.settings import StirApiSettings
from tests.fakes.certificates import Authority, Signed

WHEN: Final = 1_791_987_300.0
IDENTITY: Final = "eyJh.eyJh.c2ln;info=<https://certs.example.net/sti/1234.pem>;alg=ES256;ppt=shaken"
ORIGID: Final = "8f4c1f5e-3f0a-4a57-9b0e-0c5f8d1a2b3c"
VALID: Final = Verification(None, "signed by 1234", "A", "1234", ORIGID)
PATIENCE: Final = 10.0  # of a client in a test, seconds; never waited for where all is well
TOKEN: Final = "constructed-token-0123456789"


@dataclass
class Judge:
    """Gives one result, and keeps what it was asked. With `gate`, only when that is open."""

    result: Verification | Exception = VALID
    gate: asyncio.Event | None = None
    asked: list[tuple[tuple[bytes, ...], SignalledCall, float]] = field(default_factory=list)

    async def verify(self, values: Sequence[bytes], call: SignalledCall, when: float) -> Verification:
        self.asked.append((tuple(values), call, when))
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@dataclass
class Pen:
    """Signs C and B; keeps its orders."""

    fault: Exception | None = None
    orders: list[SigningOrder] = field(default_factory=list)

    async def sign(self, order: SigningOrder, when: float) -> str:
        self.orders.append(order)
        if self.fault is not None:
            raise self.fault
        if order.attest == "A":
            raise UnwillingError("attest", "A is not allowed for this number")
        return IDENTITY


class Running:
    """An API that listens, and its clients."""

    def __init__(self, server: StirApiServer, judge: Judge, pen: Pen | None, faults: list[Exception]) -> None:
        self.server = server
        self.judge = judge
        self.pen = pen
        self.faults = faults

    def count(self, name: str) -> int:
        return self.server.counters()[f"stir_api_{name}"]

    async def raw(self, request: bytes) -> bytes:
        """Everything that is answered until the connection ends; without TLS."""
        reader, writer = await asyncio.open_connection(*self.server.address)
        try:
            writer.write(request)
            return await asyncio.wait_for(reader.read(), PATIENCE)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    def client(self, **options: Any) -> httpx.AsyncClient:
        scheme = "https" if "verify" in options else "http"
        host, port = self.server.address
        base = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        return httpx.AsyncClient(base_url=base, timeout=PATIENCE, trust_env=False, **options)


def serve(
    use: Callable[[Running], Awaitable[None]],
    judge: Judge | None = None,
    pen: Pen | None = None,
    **settings: Any,
) -> Running:
    """Run `use` with an API that listens on a free port, and stop it."""
    faults: list[Exception] = []
    judge = judge or Judge()

    async def main() -> Running:
        filled = StirApiSettings(**{"listen": "127.0.0.1:0", **settings})
        server = StirApiServer(filled, judge, pen, on_failure=faults.append, wall=lambda: WHEN)
        running = Running(server, judge, pen, faults)
        await server.start()
        try:
            await use(running)
        finally:
            await server.stop(1.0)
        assert server.health() == (False, "stopping")
        return running

    return asyncio.run(main())


def verification(**changes: Any) -> dict[str, Any]:
    """The document of a verification; a change to None takes a key out."""
    fields = {
        "from": {"tn": "12015550123"},
        "to": {"tn": ["13035550199"]},
        "time": int(WHEN),
        "identity": IDENTITY,
        **changes,
    }
    return {"verificationRequest": {key: value for key, value in fields.items() if value is not None}}


def signing(**changes: Any) -> dict[str, Any]:
    """The same of a signing."""
    fields = {
        "attest": "B",
        "dest": {"tn": ["13035550199"]},
        "iat": int(WHEN),
        "orig": {"tn": "12015550123"},
        "origid": ORIGID,
        **changes,
    }
    return {"signingRequest": {key: value for key, value in fields.items() if value is not None}}


def as_bytes(document: object) -> bytes:
    return json.dumps(document).encode()


def request_of(body: bytes, path: str = "/stir/v1/verification", extra: str = "Connection: close\r\n") -> bytes:
    """A request as bytes, for those that httpx would not send."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return (head + extra + "\r\n").encode() + body


def error_of(response: httpx.Response) -> tuple[int, str, list[str]]:
    """Status, message id and variables of a refusal."""
    kind, what = next(iter(response.json()["requestError"].items()))
    assert kind == ("serviceException" if what["messageId"].startswith("SVC") else "policyException")
    return response.status_code, what["messageId"], what["variables"]


def pem_files(folder: Path, signed: Signed, authority: Authority | None = None) -> dict[str, Any]:
    """The settings of TLS, and the files that they name."""
    contents = {"certificate": signed.certificate, "key": signed.key}
    if authority is not None:
        contents["client_ca"] = authority.certificate
    files = {name: folder / f"{name}.pem" for name in contents}
    for name, path in files.items():
        path.write_bytes(contents[name])
    return files


def token_file(folder: Path, text: str = f"# the SBC\n{TOKEN}\n", mode: int = 0o640) -> Path:
    path = folder / "tokens"
    path.write_text(text)
    path.chmod(mode)
    return path
