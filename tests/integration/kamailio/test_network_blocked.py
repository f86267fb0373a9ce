"""603+ (ATIS-1000099) reaches the caller through the real Kamailio with its phrase and its Reason.

The policy has no rule yet that blocks by analytics, so the agent is played here: by a redirect server that answers
every INVITE with it, and by a screening service that refuses every call with it. The answer itself is the product's.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.model import Answer
from agent.sip.answers import build_answer, network_blocked, plain, unavailable
from sbcedge.screening.v1 import screening_pb2 as pb
from tests.integration.kamailio import test_link
from tests.integration.kamailio.world import HERE, World, kamailio, need_peers
from tests.integration.peers import LOOPBACK, Sipp

pytestmark = pytest.mark.slow

BLOCKED = network_blocked(
    url="https://redress.example.net/b", tel="+12015550100", id="E7-20261014", protocols=("SIP", "Q.850")
)
REASON = dict(BLOCKED.headers)["Reason"]


@contextmanager
def redirect_server(answer: Answer, delay: float = 0.0) -> Iterator[int]:
    """Answers each INVITE with this, after so many seconds; its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))

        def serve() -> None:
            while raw := sock.recvfrom(65535):
                message, source = raw
                if message == b"end":
                    return
                if message.startswith(b"INVITE "):
                    time.sleep(delay)  # it is the tardy peer that is played
                    sock.sendto(build_answer(message, answer, to_tag="ag-7710", source=source), source)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            sock.sendto(b"end", sock.getsockname())
            thread.join()


@contextmanager
def screening_service(address: str, answer: Answer) -> Iterator[None]:
    """Refuses each call with this."""
    rows = [pb.SipHeader(name=name, value=value.encode()) for name, value in answer.headers]
    refusal = pb.SipAnswer(code=answer.code, phrase=answer.phrase, headers=rows)
    service = test_link.Agent(
        address, lambda asked: [pb.ScreenResponse(id=asked.id, decision=pb.DECISION_REFUSE, answer=refusal)]
    ).start()
    try:
        yield
    finally:
        service.stop()


def refusal_seen(way: str, folder: Path, answer: Answer) -> bytes:
    """What the caller gets when the agent, played, answers with this."""
    need_peers()
    address = f"unix:{folder}/hook.sock"
    callee = Sipp(folder / "callee", HERE / "callee.xml", seconds=60.0)
    with redirect_server(answer) as port, screening_service(address, answer):
        proxy = kamailio(way, folder / "kamailio", callee.port, address, port)
        with callee, proxy:
            world = World(way, folder, None, callee, proxy)
            response = world.refused(answer.code)
            assert not [message for message in callee.messages("received") if message.startswith(b"INVITE ")]
            return response


@pytest.mark.parametrize("way", ["hook", "redirect"])
def test_603_plus_keeps_its_phrase_and_its_reason(way: str, tmp_path: Path) -> None:
    response = refusal_seen(way, tmp_path, BLOCKED)
    assert response.startswith(b"SIP/2.0 603 Network Blocked\r\n")
    assert response.count(b"\r\nReason: ") == 1
    assert f"\r\nReason: {REASON}\r\n".encode() in response


@pytest.mark.parametrize("way", ["hook", "redirect"])
def test_503_stays_503_with_its_retry_after(way: str, tmp_path: Path) -> None:
    response = refusal_seen(way, tmp_path, unavailable(7))
    assert response.startswith(b"SIP/2.0 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 7\r\n" in response


@pytest.mark.parametrize("answer", [BLOCKED, plain(404)], ids=["603", "404"])
def test_an_answer_that_comes_when_the_call_is_up_changes_nothing(answer: Answer, tmp_path: Path) -> None:
    need_peers()
    callee = Sipp(tmp_path / "callee", HERE / "callee.xml", seconds=60.0)
    with redirect_server(answer, delay=0.6) as port:
        proxy = kamailio("redirect", tmp_path / "kamailio", callee.port, "", port)
        with callee, proxy:
            world = World("redirect", tmp_path, None, callee, proxy)
            with world.caller("call", hold="1000") as caller:
                caller.finish()
            finals = {m[8:11] for m in caller.messages("received") if m[8:9] not in {b"1", b""}}
            assert finals == {b"200"}
