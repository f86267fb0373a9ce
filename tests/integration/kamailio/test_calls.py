"""Calls through the real Kamailio, screened by the real agent over the hook and over the redirect."""

import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.kamailio.world import (
    BLOCKED,
    HERE,
    LIMITED,
    NEVER_CALLS,
    Agent,
    World,
    kamailio,
    need_peers,
)
from tests.integration.peers import Sipp, wait_for

pytestmark = pytest.mark.slow

# RFC 3261 17.1.1.1: T1. A call that is answered sooner was never sent twice.
T1_MS = 500.0
IDENTITY = re.compile(rb"^(?:identity|y)[ \t]*:[^\r]*(?:\r\n[ \t][^\r]*)*", re.IGNORECASE | re.MULTILINE)


@pytest.fixture(scope="module", params=["hook", "redirect"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    need_peers()
    folder: Path = tmp_path_factory.mktemp(request.param)
    agent = Agent(folder / "agent")
    callee = Sipp(folder / "callee", HERE / "callee.xml", seconds=300.0)
    proxy = kamailio(request.param, folder / "kamailio", callee.port, agent.hook, agent.port)
    with agent, callee, proxy:
        yield World(request.param, folder, agent, callee, proxy)


def identity_rows(message: bytes) -> list[bytes]:
    return IDENTITY.findall(message.partition(b"\r\n\r\n")[0])


def invites(messages: list[bytes]) -> list[bytes]:
    return [message for message in messages if message.startswith(b"INVITE ")]


def test_an_allowed_call_completes(world: World) -> None:
    caller = world.call()
    assert any(message.startswith(b"SIP/2.0 200 ") for message in caller.messages("received"))


def test_identity_rows_reach_the_callee_byte_for_byte(world: World) -> None:
    before = len(invites(world.callee.messages("received")))
    sent = invites(world.call().messages("sent"))[0]
    received = invites(world.callee.messages("received"))[before]
    assert len(identity_rows(sent)) == 3
    assert identity_rows(received) == identity_rows(sent)


def test_identity_rows_of_every_shape_reach_the_callee_byte_for_byte(world: World) -> None:
    """Folded, empty, in compact form, with odd blanks and bytes; and after them the rest of the message."""
    rows = [
        b"Identity: a.b.c\r\n ;info=<https://cert.example.net/a.pem>\r\n\t;alg=ES256",
        b'IDENTITY :   d.e.f;info=<x>;ppt="shaken"  ',
        b"y:g..h",
        b"Identity:",
        b"identity: \xfc\xff;info=<y>",
        b"X-Not-Identity: 1",
    ]
    request = (
        b"INVITE sip:+13035550199@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:%d;branch=z9hG4bK-odd\r\n"
        b"Max-Forwards: 70\r\nFrom: <sip:+12015550123@127.0.0.1>;tag=odd\r\nTo: <sip:+13035550199@127.0.0.1>\r\n"
        b"Call-ID: odd-%s\r\nCSeq: 1 INVITE\r\n" + b"\r\n".join(rows) + b"\r\nContent-Length: 3\r\n\r\na\xfe\xff"
    )  # fmt: skip
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
        caller.bind(("127.0.0.1", 0))
        caller.sendto(request % (caller.getsockname()[1], world.way.encode()), world.kamailio.address)
        wait_for(lambda: any(b"Call-ID: odd-" in m for m in world.callee.messages("received")), "the callee to get it")
    received = next(m for m in invites(world.callee.messages("received")) if b"Call-ID: odd-" in m)
    assert b"\r\n" + b"\r\n".join(rows) + b"\r\n" in received
    assert received.endswith(b"\r\n\r\na\xfe\xff")


def test_calls_by_tcp_are_screened_like_others(world: World) -> None:
    for _ in range(3):
        with world.caller("call", transport="tcp") as allowed:
            allowed.finish()
        with world.caller("refused", transport="tcp", calling=NEVER_CALLS, status="603") as refused:
            refused.finish()


def test_a_number_that_never_originates_is_refused(world: World) -> None:
    before = len(invites(world.callee.messages("received")))
    response = world.refused(603, calling=NEVER_CALLS)
    assert response.startswith(b"SIP/2.0 603 Decline\r\n")
    assert b"analytics" not in response
    assert len(invites(world.callee.messages("received"))) == before


def test_a_call_beyond_the_limit_gets_503_and_retry_after(world: World) -> None:
    world.call(host=LIMITED)
    response = world.refused(503, host=LIMITED)
    assert response.startswith(b"SIP/2.0 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 5\r\n" in response


def test_a_blocked_trunk_is_refused_but_not_its_emergency_calls(world: World) -> None:
    world.refused(603, host=BLOCKED)
    for called in ("911", "+1911"):
        world.call(host=BLOCKED, called=called)


def test_an_emergency_call_passes_an_exhausted_limit(world: World) -> None:
    for _ in range(3):
        world.call(host=LIMITED, called="911")


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_calls_go_on_without_the_agent_and_it_screens_again_when_it_is_back(
    world: World, fault: signal.Signals
) -> None:
    """400 calls, 100 a second; a second after the first the agent is gone, a second later it is back."""
    # Each SIP worker finds out by itself that an agent is back: the other one may still be waiting.
    wait_for(lambda: all(refuses(world) for _ in range(10)), "all workers to ask", 10.0)
    before = world.kamailio.log.count("without being screened")
    with world.caller("call", calls=400, rate=100.0) as caller:
        time.sleep(1.0)  # traffic is under way: what the test is about
        world.agent.signal(fault)
        time.sleep(1.0)
        if fault == signal.SIGSTOP:
            world.agent.signal(signal.SIGCONT)
        else:
            world.agent.kill()
            world.agent.start()
        caller.finish()
    times = caller.response_times()
    assert len(times) == 400
    assert max(times) < T1_MS
    assert world.kamailio.log.count("without being screened") > before
    wait_for(lambda: refuses(world), "refusals by the agent that is back", 10.0)


def refuses(world: World) -> bool:
    try:
        world.refused(603, calling=NEVER_CALLS)
    except AssertionError:
        return False
    return True
