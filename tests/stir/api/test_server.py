"""The API over HTTP: what is answered to whom, on a listener of its own."""

import asyncio
import subprocess
import sys
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.identity.model import Failure, Verification
from agent.model import ConfigError
from agent.stir.api.server import StirApiServer
from agent.stir.api.settings import StirApiSettings
from tests.fakes.waiting import until
from tests.stir.api.apis import (
    IDENTITY,
    TOKEN,
    WHEN,
    Judge,
    Pen,
    Running,
    as_bytes,
    error_of,
    request_of,
    serve,
    signing,
    token_file,
    verification,
)

VERIFY, SIGN = "/stir/v1/verification", "/stir/v1/signing"
JSON = {"Content-Type": "application/json"}


def test_a_call_is_verified() -> None:
    judge = Judge()

    async def use(api: Running) -> None:
        async with api.client() as client:
            response = await client.post(VERIFY, json=verification())
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/json"
        assert parsedate_to_datetime(response.headers["Date"]).timestamp() == WHEN
        assert response.json() == {"verificationResponse": {"verstat": "TN-Validation-Passed"}}
        assert api.count("passed") == 1

    serve(use, judge)
    values, call, when = judge.asked[0]
    assert (values, call.calling, call.called, when) == ((IDENTITY.encode(),), ("12015550123",), "13035550199", WHEN)


def test_a_call_that_fails_is_answered_with_200_too() -> None:
    async def use(api: Running) -> None:
        async with api.client() as client:
            response = await client.post(VERIFY, json=verification())
        assert response.status_code == 200
        told = response.json()["verificationResponse"]
        assert told["reasoncode"] == 438
        assert told["reasontext"] == "Invalid Identity Header"
        assert told["verstat"] == "TN-Validation-Failed"
        assert api.count("not_passed") == 1

    serve(use, Judge(Verification(Failure.INVALID, "the signature does not fit")))


def test_a_verification_that_takes_too_long_is_none() -> None:
    async def use(api: Running) -> None:
        api.judge.gate = asyncio.Event()  # never opened
        async with api.client() as client:
            response = await client.post(VERIFY, json=verification())
        assert response.status_code == 200
        assert response.json()["verificationResponse"]["verstat"] == "No-TN-Validation"
        assert "0.05 s" in response.json()["verificationResponse"]["reasondesc"]
        assert api.count("late") == api.count("not_passed") == 1

    serve(use, answer_seconds=0.05)


def test_a_call_is_signed() -> None:
    pen = Pen()

    async def use(api: Running) -> None:
        async with api.client() as client:
            response = await client.post(SIGN, json=signing())
        assert (response.status_code, response.json()) == (200, {"signingResponse": {"identity": IDENTITY}})
        assert api.count("signed") == 1

    serve(use, pen=pen)
    assert pen.orders[0].orig == "12015550123"


def test_an_order_that_the_signer_does_not_carry_out_is_refused_with_his_reason() -> None:
    async def use(api: Running) -> None:
        async with api.client() as client:
            response = await client.post(SIGN, json=signing(attest="A"))
        assert error_of(response) == (400, "SVC4005", ["attest", "A is not allowed for this number"])

    serve(use, pen=Pen())


@pytest.mark.parametrize("seconds", [-61, 61])
def test_what_would_be_stale_when_it_is_verified_is_not_signed(seconds: int) -> None:
    pen = Pen()

    async def use(api: Running) -> None:
        async with api.client() as client:
            response = await client.post(SIGN, json=signing(iat=int(WHEN) + seconds))
        assert error_of(response)[:2] == (400, "SVC4005")

    serve(use, pen=pen)
    assert not pen.orders


def test_without_a_key_there_is_no_signing() -> None:
    async def use(api: Running) -> None:
        async with api.client() as client:
            assert error_of(await client.post(SIGN, json=signing())) == (404, "SVC4003", [])
        assert "verifies" in api.server.health()[1]

    serve(use)


@pytest.mark.parametrize("fault", [ValueError("secret of ours"), TimeoutError("secret of ours")])
def test_a_fault_of_ours_is_told_to_us_and_not_to_the_client(fault: Exception) -> None:
    async def use(api: Running) -> None:
        async with api.client() as client:
            response = await client.post(SIGN, json=signing())
            assert error_of(response) == (500, "POL5000", [])
            assert "secret" not in response.text
            assert (await client.post(VERIFY, json=verification())).status_code == 200
        assert api.faults == [fault]
        assert api.count("failures") == 1

    serve(use, pen=Pen(fault))


@pytest.mark.parametrize(
    ("path", "method", "headers", "content", "expected"),
    [
        ("/stir/v1/other", "POST", JSON, b"{}", (404, "SVC4003", [])),
        ("/", "GET", {}, b"", (404, "SVC4003", [])),
        (VERIFY + "/", "POST", JSON, b"{}", (404, "SVC4003", [])),
        (VERIFY, "GET", {}, b"", (405, "POL4050", [])),
        (VERIFY, "PUT", JSON, b"{}", (405, "POL4050", [])),
        (VERIFY, "POST", {**JSON, "Accept": "text/html"}, b"{}", (406, "SVC4002", ["text/html"])),
        (VERIFY, "POST", {**JSON, "Accept": "application/json;q=0"}, b"{}", (406, "SVC4002", ["application/json;q=0"])),
        (VERIFY, "POST", {"Content-Type": "text/xml"}, b"{}", (415, "SVC4004", ["application/json"])),
        (VERIFY, "POST", {}, b"{}", (415, "SVC4004", ["application/json"])),
        (
            VERIFY,
            "POST",
            {"Content-Type": "application/json; charset=utf-16"},
            b"{}",
            (415, "SVC4004", ["application/json"]),
        ),
        (VERIFY, "POST", {**JSON, "Content-Encoding": "gzip"}, b"{}", (415, "SVC4004", ["application/json"])),
        (VERIFY, "POST", JSON, b"", (400, "SVC4000", [])),
        (VERIFY, "POST", JSON, b"{}", (400, "SVC4001", ["verificationRequest"])),
        (VERIFY, "POST", JSON, b"garbage", (400, "SVC4006", ["invalid JSON"])),
        (VERIFY, "POST", JSON, b" " * 65_537, (413, "SVC4006", ["longer than 65536 bytes"])),
    ],
)
def test_a_call_of_the_api_that_is_wrong_is_told_how(
    path: str, method: str, headers: dict[str, str], content: bytes, expected: tuple[int, str, list[str]]
) -> None:
    async def use(api: Running) -> None:
        async with api.client() as client:
            response = await client.request(method, path, headers=headers, content=content)
            assert error_of(response) == expected
            if expected[0] == 405:
                assert response.headers["Allow"] == "POST"
            again = await client.post(VERIFY, json=verification())  # on the same connection
            assert again.status_code == 200
        assert api.count("bad_requests") == 1
        assert api.count("connections") == 1

    serve(use)


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/html, application/*;q=0.5", "Application/JSON"])
def test_who_accepts_json_gets_it(accept: str) -> None:
    async def use(api: Running) -> None:
        async with api.client() as client:
            headers = {"Accept": accept, "Content-Type": 'Application/JSON; charset="UTF-8"'}
            response = await client.post(VERIFY, headers=headers, content=as_bytes(verification()))
        assert response.status_code == 200

    serve(use)


def test_a_body_of_no_stated_length_is_refused() -> None:
    async def pieces() -> Any:
        yield as_bytes(verification())

    async def use(api: Running) -> None:
        async with api.client() as client:
            response = await client.post(VERIFY, headers=JSON, content=pieces())
        assert error_of(response) == (411, "SVC4007", [])

    serve(use)


def test_a_request_is_told_by_its_id_and_the_instance() -> None:
    async def use(api: Running) -> None:
        async with api.client() as client:
            good = await client.post(VERIFY, json=verification(), headers={"X-RequestID": "5f0c-1"})
            assert good.headers["X-RequestID"] == "5f0c-1"
            assert good.headers["X-InstanceID"] == "edge1"
            bad = await client.post(VERIFY, json={}, headers={b"X-RequestID": b"a \xe9\tb" + b"c" * 500})
            assert bad.headers["X-RequestID"] == "ab" + "c" * 126
            assert "X-RequestID" not in (await client.post(VERIFY, json=verification())).headers

    serve(use, instance="edge1")


def test_the_paths_stand_under_a_base() -> None:
    async def use(api: Running) -> None:
        async with api.client() as client:
            assert (await client.post("/Stir/x" + VERIFY, json=verification())).status_code == 200
            assert (await client.post(VERIFY, json=verification())).status_code == 404

    serve(use, base_path="/Stir/x")


def test_a_token_is_asked_for_before_anything_else(tmp_path: Path) -> None:
    async def use(api: Running) -> None:
        async with api.client() as client:
            for path in (VERIFY, "/nothing"):
                refused = await client.post(path, content=b" " * 100_000)
                assert error_of(refused) == (401, "POL0001", ["token required"])
                assert refused.headers["WWW-Authenticate"] == 'Bearer realm="stir"'
            wrong = await client.post(VERIFY, json=verification(), headers={"Authorization": f"Bearer {TOKEN}0"})
            assert error_of(wrong) == (401, "POL0001", ["token unknown"])
            right = await client.post(VERIFY, json=verification(), headers={"Authorization": f"Bearer {TOKEN}"})
            assert right.status_code == 200
        assert api.count("unauthorised") == 3
        assert len(api.judge.asked) == 1

    serve(use, token_file=token_file(tmp_path))


def test_a_client_has_so_many_requests_at_one_time() -> None:
    async def use(api: Running) -> None:
        gate = api.judge.gate = asyncio.Event()
        async with api.client() as client:
            first = [asyncio.create_task(client.post(VERIFY, json=verification())) for _ in range(2)]
            await until(lambda: len(api.judge.asked) == 2)
            assert "2 requests in flight" in api.server.health()[1]
            third = await client.post(VERIFY, json=verification())
            assert error_of(third) == (503, "POL0001", ["too many requests in flight"])
            assert third.headers["Retry-After"] == "1"
            gate.set()
            assert [response.status_code for response in await asyncio.gather(*first)] == [200, 200]
            assert (await client.post(VERIFY, json=verification())).status_code == 200
        assert api.count("turned_away") == 1

    serve(use, max_in_flight=2, answer_seconds=5.0)


def test_stop_answers_what_is_asked_and_takes_nothing_new() -> None:
    async def use(api: Running) -> None:
        gate = api.judge.gate = asyncio.Event()
        async with api.client() as client:
            asked = asyncio.create_task(client.post(VERIFY, json=verification()))
            await until(lambda: len(api.judge.asked) == 1)
            stopping = asyncio.create_task(api.server.stop(5.0))
            await until(lambda: not api.server.health()[0])
            with pytest.raises(httpx.ConnectError):
                await client.post(VERIFY, json=verification())
            gate.set()
            assert (await asked).status_code == 200
            await stopping

    serve(use, answer_seconds=5.0)


def test_stop_does_not_wait_beyond_its_grace() -> None:
    async def use(api: Running) -> None:
        api.judge.gate = asyncio.Event()  # never opened
        async with api.client() as client:
            asked = asyncio.create_task(client.post(VERIFY, json=verification()))
            await until(lambda: len(api.judge.asked) == 1)
            await asyncio.wait_for(api.server.stop(0.05), 2.0)
            with pytest.raises(httpx.TransportError):
                await asked

    serve(use, answer_seconds=5.0)


def test_ipv6_is_served_too() -> None:
    async def use(api: Running) -> None:
        assert api.server.address[0] == "::1"
        assert api.server.health()[1].startswith("http://[::1]:")
        async with api.client() as client:
            assert (await client.post(VERIFY, json=verification())).status_code == 200

    serve(use, listen="[::1]:0")


def test_an_address_that_is_taken_is_an_oserror() -> None:
    async def use(api: Running) -> None:
        host, port = api.server.address
        second = StirApiServer(StirApiSettings(listen=f"{host}:{port}"), Judge())
        with pytest.raises(OSError, match="in use"):
            await second.start()
        assert second.health() == (False, "not started")
        await second.stop(0.0)

    serve(use)


def test_files_that_cannot_be_used_are_named_at_the_start(tmp_path: Path) -> None:
    missing, garbage = tmp_path / "missing.pem", tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    for settings, field in (
        ({"token_file": missing}, str(missing)),
        ({"certificate": missing, "key": missing}, "stir_api.certificate"),
        ({"certificate": garbage, "key": garbage}, "stir_api.certificate"),
    ):
        with pytest.raises(ConfigError) as caught:
            asyncio.run(StirApiServer(StirApiSettings(**settings), Judge()).start())  # type: ignore[arg-type]
        assert caught.value.field == field


def test_counters_have_the_same_names_before_and_after_the_start() -> None:
    before = StirApiServer(StirApiSettings(), Judge()).counters()
    assert all(name.startswith("stir_api_") for name in before)

    async def use(api: Running) -> None:
        assert api.server.counters().keys() == before.keys()

    serve(use)


def test_requests_in_one_packet_are_answered_in_order() -> None:
    async def use(api: Running) -> None:
        body = as_bytes(verification())
        answer = await api.raw(request_of(body, extra="X-RequestID: 1\r\n") + request_of(body) + request_of(body))
        assert answer.count(b"HTTP/1.1 200 OK") == 2  # "Connection: close" ends it after the second
        assert answer.index(b"x-requestid: 1") < answer.rindex(b"HTTP/1.1")

    serve(use)


def test_a_client_may_ask_before_it_sends_its_body() -> None:
    async def use(api: Running) -> None:
        body = as_bytes(verification())
        reader, writer = await asyncio.open_connection(*api.server.address)
        writer.write(request_of(body, extra="Expect: 100-continue\r\nConnection: close\r\n")[: -len(body)])
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        assert not api.judge.asked
        writer.write(body)
        assert b"HTTP/1.1 200 OK" in await reader.read()
        writer.close()

    serve(use)


def test_who_is_refused_is_not_asked_for_his_body(tmp_path: Path) -> None:
    async def use(api: Running) -> None:
        reader, writer = await asyncio.open_connection(*api.server.address)
        writer.write(request_of(bytes(60_000), extra="Expect: 100-continue\r\n")[:-60_000])
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()

    serve(use, token_file=token_file(tmp_path))


def test_http_1_0_is_answered_and_ended() -> None:
    async def use(api: Running) -> None:
        body = as_bytes(verification())
        answer = await api.raw(request_of(body, extra="").replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert b"200 OK" in answer.split(b"\r\n")[0]

    serve(use)


def test_no_other_protocol_is_spoken() -> None:
    async def use(api: Running) -> None:
        body = as_bytes(verification())
        upgrade = "Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"
        assert b"HTTP/1.1 200 OK" in await api.raw(request_of(body, extra=upgrade))

    serve(use)


def test_an_agent_without_the_api_does_not_load_it() -> None:
    script = (
        "import agent.stir.api.server, sys; print([m for m in ('uvicorn', 'starlette', 'h11') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "[]"


def test_no_signal_handler_and_no_log_handler_is_touched() -> None:
    script = """
import asyncio, logging, signal
from agent.stir.api.server import StirApiServer
from agent.stir.api.settings import StirApiSettings

def handlers():
    return [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

async def main():
    before = handlers()
    server = StirApiServer(StirApiSettings(listen="127.0.0.1:0"), None)
    await server.start()
    assert handlers() == before
    assert not logging.getLogger().handlers and not logging.getLogger("uvicorn").handlers
    await server.stop(0.0)

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script], check=True)
