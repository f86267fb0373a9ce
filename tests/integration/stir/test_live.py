"""Signed calls through the real Kamailio, verified by the real agent with certificates from a real https server.

Whatever that server does, and whatever the Identity is worth: the call goes on, and waits no longer than it may.
"""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from agent.identity.signing import Signer
from tests.fakes.certificate_server import CertificateServer, Handler, endless, head, page
from tests.integration.kamailio.test_calls import T1_MS, invites
from tests.integration.kamailio.world import HERE as KAMAILIO
from tests.integration.kamailio.world import ROOT, World, kamailio, need_peers
from tests.integration.peers import LOOPBACK, Peer, Sipp, wait_for
from tests.integration.stir.laboratory import CALLED, CALLING, ORIGID, Lab, make_lab

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parent
SLOW_SECONDS = 2.0

POLICY = f"""\
generation = 1

[[trunks]]
id = "peer"
sources = ["{LOOPBACK}"]
trust_asserted_identity = true

[identity]
reason = true

[signing]
gateway_trunks = []

[[customers]]
id = "customer"
numbers = ["{CALLING}"]
"""
CONFIG = """\
[policy]
file = "policy.toml"
[hook]
socket = "{folder}/hook.sock"
[identity]
trust_lists = ["{lab}/root.pem"]
https_ca = "{lab}/https-root.pem"
allow_addresses = ["127.0.0.0/8"]
directory = "{folder}/identity"
[records]
directory = "{folder}/spool"
[admin]
socket = "{folder}/admin.sock"
[metrics]
listen = ""
"""

_number = count(1)


class Agent(Peer):
    """`sbc-agent run` that verifies."""

    def __init__(self, folder: Path, lab: Lab) -> None:
        super().__init__("agent", [sys.executable, "-m", "agent.cli.main", "run", "--config", "agent.toml"], folder)
        folder.mkdir(parents=True)
        (folder / "policy.toml").write_text(POLICY)
        (folder / "agent.toml").write_text(CONFIG.format(folder=folder, lab=lab.folder))

    def ready(self) -> bool:
        return '"ready"' in self.log

    def explain(self, call_id: str) -> Mapping[str, Any]:
        """What the agent recorded of a call's verification."""
        asked = [sys.executable, "-m", "agent.cli.main", "explain", "--json", "--dir", f"{self.folder}/spool", call_id]
        found: list[Mapping[str, Any]] = []

        def recorded() -> bool:
            out = subprocess.run(asked, cwd=ROOT, capture_output=True, check=False, text=True).stdout
            found[:] = json.loads(out or "[]")
            return bool(found)

        wait_for(recorded, f"a record of {call_id}")
        verification: Mapping[str, Any] = found[-1]["verification"]
        return verification


@dataclass
class Live:
    """Caller, Kamailio, agent, callee and the certificates' server."""

    world: World
    lab: Lab
    server: CertificateServer

    def calls(self, identity: str, calls: int = 1, fields: list[tuple[str, str]] | None = None) -> Sipp:
        """Calls with this Identity that all must complete, none of them sent twice."""
        row = f"Identity: {identity}" if identity else "X-Unsigned: yes"
        with Sipp(
            self.world.folder / f"caller-{next(_number)}",
            HERE / "signed.xml",
            remote=self.world.kamailio.address,
            calls=calls,
            rate=200.0,
            keys={"calling": f"+{CALLING}", "called": f"+{CALLED}", "hold": "10", "identity": row},
            fields=fields or (),
        ) as caller:
            caller.finish()
        times = caller.response_times()
        assert len(times) == calls
        assert max(times) < T1_MS
        return caller

    def call(self, identity: str) -> tuple[bytes, Mapping[str, Any]]:
        """One call: what the callee got, and what the agent made of it."""
        sent = invites(self.calls(identity).messages("sent"))[0]
        call_id = next(row for row in sent.split(b"\r\n") if row.startswith(b"Call-ID: "))[9:].decode()
        here = b"\r\nCall-ID: " + call_id.encode()
        received = next(message for message in invites(self.world.callee.messages("received")) if here in message)
        if identity:
            assert f"Identity: {identity}\r\n".encode() in received
        return received, self.world.agent.explain(call_id)


@contextmanager
def served(lab: Lab) -> Iterator[CertificateServer]:
    """The certificates' server, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    context = lab.served()
    try:
        yield asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    need_peers()
    folder: Path = tmp_path_factory.mktemp("live")
    (folder / "lab").mkdir()
    lab = make_lab(folder / "lab")
    agent = Agent(folder / "agent", lab)
    callee = Sipp(folder / "callee", KAMAILIO / "callee.xml", seconds=300.0)
    proxy = kamailio("hook", folder / "kamailio", callee.port, f"unix:{folder}/agent/hook.sock", 0)
    with served(lab) as server, agent, callee, proxy:
        yield Live(World("hook", folder, agent, callee, proxy), lab, server)


def known(live: Live) -> None:
    """Have the agent know the good signer's certificate: the first call of a signer may not wait for it long enough."""

    def verified() -> bool:
        return bool(live.call(live.lab.sign())[1]["failure"] == "")

    wait_for(verified, "the certificate to be fetched", 20.0)


@pytest.mark.parametrize("attest", ["A", "B", "C"])
def test_a_signed_call_is_verified_and_marked(live: Live, attest: str) -> None:
    known(live)
    received, found = live.call(live.lab.sign(attest=attest))
    assert (found["failure"], found["attestation"], found["signer"]) == ("", attest, "1234")
    assert b"P-Asserted-Identity: <sip:+12015550123;verstat=TN-Validation-Passed@" in received


def eventually(live: Live, identity: str, failure: str) -> bytes:
    """Call until the certificate was there in time; what the callee got then."""
    seen: list[bytes] = []

    def told() -> bool:
        received, found = live.call(identity)
        seen.append(received)
        return bool(found["failure"] == failure)

    wait_for(told, failure, 20.0)
    return seen[-1]


@pytest.mark.parametrize(
    ("wrong", "failure"),
    [
        ({"url": "expired"}, "credential"),
        ({"url": "foreign"}, "credential"),
        ({"key": "foreign"}, "invalid"),
        ({"calling": "12015550199"}, "mismatch"),
        ({"called": "13035550111"}, "mismatch"),
        ({"age": 99.0}, "stale"),
    ],
    ids=["expired", "foreign authority", "wrong key", "wrong caller", "wrong callee", "stale"],
)
def test_a_badly_signed_call_goes_on_and_says_so(live: Live, wrong: dict[str, Any], failure: str) -> None:
    received = eventually(live, live.lab.sign(**wrong), failure)
    assert b";verstat=TN-Validation-Failed@" in received


def test_an_unsigned_call_goes_on_and_says_so(live: Live) -> None:
    received, found = live.call("")
    assert found["failure"] == "missing"
    assert b";verstat=No-TN-Validation@" in received


def slow(body: bytes) -> Handler:
    async def answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(SLOW_SECONDS)  # what the test is about
        await page(body)(writer)

    return answer


def test_a_slow_server_keeps_nobody_waiting_and_its_certificate_is_used_when_it_is_there(live: Live) -> None:
    live.server.pages["/slow.pem"] = slow((live.lab.folder / "signer.pem").read_bytes())
    url = live.lab.url("slow")
    started = time.monotonic()
    received, found = live.call(signed_for(live, url))
    assert found["failure"] == "unreachable"
    assert b";verstat=No-TN-Validation@" in received
    assert time.monotonic() - started < 10 * SLOW_SECONDS
    received = eventually(live, signed_for(live, url), "")
    assert b";verstat=TN-Validation-Passed@" in received


@pytest.mark.parametrize("fault", ["dead", "streaming"])
def test_a_server_that_gives_nothing_keeps_nobody_waiting(live: Live, fault: str) -> None:
    url = live.lab.url("streaming").replace(live.lab.host, "127.1.1.1" if fault == "dead" else live.lab.host)
    live.server.pages["/streaming.pem"] = endless(head(200, {}), b"x" * 65_536)
    received, found = live.call(signed_for(live, url))
    assert found["failure"] == "unreachable"
    assert b";verstat=No-TN-Validation@" in received


def test_a_thousand_certificates_at_once_delay_no_call(live: Live) -> None:
    """And a call whose certificate is known is verified amid all of them."""
    known(live)
    many = [parts(signed_for(live, live.lab.url(f"unknown-{n}"))) for n in range(1000)]
    flood = threading.Thread(target=live.calls, args=("[field0];info=<[field1]>;alg=ES256;ppt=shaken", 1000, many))
    flood.start()
    verified = 0
    try:
        while flood.is_alive():
            verified += live.call(live.lab.sign())[1]["failure"] == ""
    finally:
        flood.join()
    assert verified > 0


def signed_for(live: Live, url: str) -> str:
    """An Identity by the good key, whose certificate is said to be there."""
    signer = Signer(live.lab.holder("signer").key, url)
    return signer.sign(CALLING, (CALLED,), "A", ORIGID, int(time.time())).decode()


def parts(identity: str) -> tuple[str, str]:
    token, _, rest = identity.partition(";info=<")
    return token, rest.partition(">")[0]
