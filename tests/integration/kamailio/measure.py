"""What screening adds to the time a call takes through Kamailio: python -m tests.integration.kamailio.measure

One caller, one call after the other, on loopback; the callee answers each INVITE at once with 486. Measured is how long
an INVITE takes to the callee, and to a final response, of the callee or of screening: without screening, over the hook
and over the redirect, in one run, the three in turn, so that what else the machine does hits all of them alike.
"""

import socket
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Final

from agent.model import Answer
from agent.sip.answers import build_answer
from tests.integration.kamailio.world import CALLING, NEVER_CALLS, Agent, kamailio
from tests.integration.peers import LOOPBACK

CALLS: Final = 1500
WARM_UP: Final = 100
WAYS: Final = ("none", "hook", "redirect")

_number = count(1)


def invite(calling: str, port: int) -> bytes:
    """A signed INVITE of 1.6 kB, fresh."""
    number = next(_number)
    rows = [
        f"INVITE sip:+13035550199@{LOOPBACK};user=phone SIP/2.0",
        f"Via: SIP/2.0/UDP {LOOPBACK}:{port};branch=z9hG4bK-m{number}",
        "Max-Forwards: 70",
        f"From: <sip:{calling}@{LOOPBACK};user=phone>;tag=m{number}",
        f"To: <sip:+13035550199@{LOOPBACK};user=phone>",
        f"Call-ID: measure-{number}@{LOOPBACK}",
        "CSeq: 1 INVITE",
        f"Contact: <sip:{LOOPBACK}:{port}>",
        f"Identity: {'e' * 900}.c2ln;info=<https://cert.example.net/a.pem>;alg=ES256;ppt=shaken",
        "Content-Length: 0",
    ]
    return ("\r\n".join(rows) + "\r\n\r\n").encode()


def ack(request: bytes, response: bytes) -> bytes:
    """The ACK to a final response that refuses (RFC 3261 17.1.1.3)."""
    to = next(row for row in response.split(b"\r\n") if row.startswith(b"To:"))
    rows = [to if row.startswith(b"To:") else row for row in request.split(b"\r\n")]
    rows = [row for row in rows if not row.startswith((b"Identity:", b"Contact:"))]
    return b"\r\n".join(rows).replace(b"INVITE", b"ACK")


def callee(sock: socket.socket, arrivals: list[float]) -> None:
    """Busy, until it gets an empty datagram; notes when INVITEs arrive."""
    busy = Answer(486, "Busy Here")
    while True:
        raw, source = sock.recvfrom(65535)
        if not raw:
            return
        if raw.startswith(b"INVITE "):
            arrivals.append(time.perf_counter())
            sock.sendto(build_answer(raw, busy, to_tag="callee", source=source), source)


def call(
    sock: socket.socket, address: tuple[str, int], calling: str, arrivals: list[float]
) -> tuple[str, float, float]:
    """One call: the status of its final response, seconds until the callee had it (0 if never), and to the response."""
    request = invite(calling, sock.getsockname()[1])
    call_id = request.split(b"Call-ID: ")[1].split(b"\r\n")[0]
    arrivals.clear()
    begin = time.perf_counter()
    sock.sendto(request, address)
    while call_id not in (response := sock.recv(65535)) or response.startswith(b"SIP/2.0 1"):
        pass
    took = time.perf_counter() - begin
    sock.sendto(ack(request, response), address)
    return response[8:11].decode(), arrivals[0] - begin if arrivals else 0.0, took


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    return sorted(values)[int(len(values) * share)] * 1000


def main() -> int:
    """Measure and print."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sbc-edge-")))
        agent = stack.enter_context(Agent(folder / "agent"))
        answering, asking = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        for sock in (answering, asking):
            sock.bind((LOOPBACK, 0))
        asking.settimeout(5.0)
        arrivals: list[float] = []
        threading.Thread(target=callee, args=(answering, arrivals), daemon=True).start()
        proxies = {
            way: stack.enter_context(
                kamailio(way, folder / way, answering.getsockname()[1], agent.hook, agent.port, 20)
            )
            for way in WAYS
        }
        times: dict[tuple[str, str], list[float]] = {}
        unscreened = dict.fromkeys(WAYS, 0)
        for number in range(CALLS + WARM_UP):
            for way, proxy in proxies.items():
                status, there, _ = call(asking, proxy.address, CALLING, arrivals)
                assert status == "486", f"{way}: {status}"
                refusal, _, took = call(asking, proxy.address, NEVER_CALLS, arrivals)
                unscreened[way] += refusal == "486"
                if number >= WARM_UP:
                    times.setdefault((way, "INVITE to callee"), []).append(there)
                    times.setdefault((way, "INVITE to refusal"), []).append(took)
        answering.sendto(b"", answering.getsockname())
    print(f"without verdict in time, and passed, of {CALLS + WARM_UP}: {unscreened}")
    print(f"{CALLS} calls each, milliseconds            p50     p99   p50 beyond Kamailio alone")
    for (way, name), values in times.items():
        beyond = percentile(values, 0.5) - percentile(times["none", name], 0.5)
        print(f"{way:>10} {name:<20} {percentile(values, 0.5):10.2f} {percentile(values, 0.99):7.2f} {beyond:10.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
