"""Messages and policies for tests: short to write, constructed numbers only."""

from itertools import count

from agent.identity.model import Verification
from agent.policy.compile import compile_policy
from agent.policy.policy import Policy
from agent.screening import Decision, Observation, Screening
from sbcedge.policy.v1 import policy_pb2 as pb

CALLER = "sip:+12015550123@a.example.net;user=phone"
CALLED = "sip:+13035550199@sbc.example.net;user=phone"
PEER = "192.0.2.10"
SBC = "198.51.100.1"

_numbers = count(1)


def invite(
    called: str = CALLED,
    calling: str = CALLER,
    *,
    to: str | None = None,
    call_id: str | None = None,
    from_tag: str = "9f",
    branch: str | None = None,
    cseq: int = 1,
    to_tag: str = "",
    headers: tuple[str, ...] = (),
    method: str = "INVITE",
) -> bytes:
    """One request; Call-ID and branch are fresh unless given."""
    number = next(_numbers)
    rows = [
        f"{method} {called} SIP/2.0",
        f"Via: SIP/2.0/UDP {PEER}:5060;branch={branch or f'z9hG4bK-{number}'}",
        "Max-Forwards: 70",
        f"From: <{calling}>;tag={from_tag}",
        f"To: <{to or called}>" + (f";tag={to_tag}" if to_tag else ""),
        f"Call-ID: {call_id or f'{number}@a.example.net'}",
        f"CSeq: {cseq} {method}",
        *headers,
        "Content-Length: 0",
    ]
    return ("\r\n".join(rows) + "\r\n\r\n").encode()


def response(request: bytes, status: int, to_tag: str = "b1") -> bytes:
    """A response to a request that `invite` made."""
    rows = request.decode().split("\r\n")
    kept = [row for row in rows[1:] if row.split(":")[0] in {"Via", "From", "Call-ID", "CSeq", "Content-Length"}]
    to = next(row for row in rows if row.startswith("To:"))
    return "\r\n".join([f"SIP/2.0 {status} Reply", *kept, f"{to};tag={to_tag}", "", ""]).encode()


def observe(raw: bytes, when: float = 1_800_000_000.0, source: str = PEER) -> Observation:
    """The message as it comes in by UDP from `source`."""
    return Observation(raw, "udp", source, 5060, SBC, 5060, when)


def policy(message: pb.Policy | None = None) -> Policy:
    """A policy that needs no list."""
    return compile_policy(message or pb.Policy(), {})


def screen(
    screening: Screening,
    raw: bytes,
    now: float = 1_800_000_000.0,
    source: str = PEER,
    identity: Verification | None = None,
) -> Decision:
    """Screen an INVITE that must be decided."""
    decision = screening.handle(observe(raw, now, source), now, identity)
    assert decision is not None
    return decision
