"""What the Kamailio client does with a message and a verdict, with a small stand-in for Kamailio's KEMI functions."""

import base64
import time
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sbcedge.screening.v1 import screening_pb2 as pb
from tests.integration.kamailio.module import load

INVITE = b'INVITE sip:+13035550199@192.0.2.1 SIP/2.0\r\nFrom: "J\xfc" <sip:a@b>\r\n\r\n'


@dataclass
class Kemi:
    """One message at hand, and what was done to it."""

    message: bytes = INVITE
    transport: str = "udp"
    source: str = "192.0.2.10"
    reply: tuple[int, str] | None = None
    reply_rows: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pv = SimpleNamespace(get=self._get, sets=self.variables.__setitem__)
        self.sl = SimpleNamespace(send_reply=self._send_reply)
        self.hdr = SimpleNamespace(
            append_to_reply=self.reply_rows.append, append=self.rows.append, remove=self.removed.append
        )
        self.err = self.warn = self.logged.append

    def _send_reply(self, code: int, phrase: str) -> int:
        self.reply = (code, phrase)
        return 1

    def _get(self, name: str) -> Any:
        return {
            "$ml": len(self.message),
            "$(mb{s.encode.base64})": _encoded(self.message),
            "$(mb{s.substr,0,48000}{s.encode.base64})": _encoded(self.message[:48000]),
            "$si": self.source,
            "$sp": 5060,
            "$Ri": "192.0.2.1",
            "$Rp": 5062,
            "$proto": self.transport,
            "$ci": "c1",
            "$ft": "f1",
            "$tt": None,
        }[name]


def _encoded(data: bytes) -> str | None:
    """Base64 within the buffer that Kamailio has for it."""
    return base64.b64encode(data).decode() if len(data) <= 49_000 else None


@dataclass
class Link:
    """An agent that says what it is told to say."""

    response: pb.ScreenResponse | None = None
    error: Exception | None = None
    asked: list[pb.ScreenRequest] = field(default_factory=list)
    events: list[pb.CallEvent] = field(default_factory=list)

    def ask(self, request: pb.ScreenRequest) -> pb.ScreenResponse | None:
        self.asked.append(request)
        if self.error:
            raise self.error
        return self.response

    def report(self, event: pb.CallEvent) -> bool:
        if self.error:
            raise self.error
        self.events.append(event)
        return True


def client(kemi: Kemi, link: Link) -> tuple[ModuleType, Any]:
    module: Any = load()
    module.KSR = kemi
    hook = module.mod_init()
    hook._link = link
    return module, hook


def refusal(*headers: tuple[str, bytes], code: int = 603, phrase: str = "Decline") -> pb.ScreenResponse:
    rows = [pb.SipHeader(name=name, value=value) for name, value in headers]
    return pb.ScreenResponse(
        decision=pb.DECISION_REFUSE, answer=pb.SipAnswer(code=code, phrase=phrase, headers=rows)
    )  # fmt: skip


@pytest.mark.parametrize(
    "response",
    [
        None,
        pb.ScreenResponse(decision=pb.DECISION_ALLOW),
        pb.ScreenResponse(decision=pb.DECISION_NOT_DECIDED),
        pb.ScreenResponse(),
    ],
)
def test_whatever_is_no_refusal_passes_untouched(response: pb.ScreenResponse | None) -> None:
    kemi = Kemi()
    module, hook = client(kemi, Link(response))
    assert hook.screen(None) == module.PASS
    assert (kemi.reply, kemi.rows, kemi.removed, kemi.reply_rows) == (None, [], [], [])


def test_a_refusal_is_answered_with_its_phrase_and_rows() -> None:
    kemi = Kemi()
    reason = b'SIP;cause=603;text="v=analytics1;url=https://redress.example.net/b";location=RLN'
    module, hook = client(kemi, Link(refusal(("Reason", reason), phrase="Network Blocked")))
    assert hook.screen(None) == module.ANSWERED
    assert kemi.reply == (603, "Network Blocked")
    assert kemi.reply_rows == [f"Reason: {reason.decode()}\r\n"]


def test_a_flood_is_dropped_in_silence() -> None:
    kemi = Kemi()
    module, hook = client(kemi, Link(pb.ScreenResponse(decision=pb.DECISION_DROP)))
    assert hook.screen(None) == module.DROP
    assert kemi.reply is None


def test_rows_for_the_next_hop_replace_those_of_their_name() -> None:
    kemi = Kemi(message=INVITE.replace(b"From:", b"Identity: c\r\nFrom:"))
    rows = [pb.SipHeader(name="Identity", value=value) for value in (b"a", b"b")]
    module, hook = client(kemi, Link(pb.ScreenResponse(decision=pb.DECISION_ALLOW, egress_headers=rows)))
    assert hook.screen(None) == module.PASS
    assert kemi.removed == ["Identity"]
    assert kemi.rows == ["Identity: a\r\n", "Identity: b\r\n"]


def test_a_row_that_the_agent_signed_goes_behind_those_that_came() -> None:
    folded = b"a.b.c\r\n ;info=<x>"
    kemi = Kemi(message=INVITE.replace(b"From:", b"Identity: " + folded + b"\r\nFrom:"))
    rows = [pb.SipHeader(name="Identity", value=value) for value in (folded, b"d.e.f")]
    module, hook = client(kemi, Link(pb.ScreenResponse(decision=pb.DECISION_ALLOW, egress_headers=rows)))
    assert hook.screen(None) == module.PASS
    assert (kemi.removed, kemi.rows) == ([], ["Identity: d.e.f\r\n"])


def test_what_verification_came_to_is_left_for_the_script() -> None:
    kemi = Kemi()
    reason = pb.SipHeader(name="Reason", value=b'STIR ;cause=436 ;text="Bad Identity Info"')
    response = pb.ScreenResponse(verstat="No-TN-Validation", response_headers=[reason])
    module, hook = client(kemi, Link(response))
    assert hook.screen(None) == module.PASS
    assert kemi.variables == {
        "$avp(sbc_edge_verstat)": "No-TN-Validation",
        "$avp(sbc_edge_reply)": 'Reason: STIR ;cause=436 ;text="Bad Identity Info"\r\n',
    }


def test_rows_that_the_message_has_already_are_not_touched() -> None:
    rows = b"identity :\t a.b.c\r\n ;info=<x> \r\nX: 1\r\ny:d\r\n"
    kemi = Kemi(message=INVITE.replace(b"From:", rows + b"From:"))
    values = (b"a.b.c\r\n ;info=<x>", b"d")
    link = Link(pb.ScreenResponse(egress_headers=[pb.SipHeader(name="Identity", value=value) for value in values]))
    module, hook = client(kemi, link)
    assert hook.screen(None) == module.PASS
    assert (kemi.rows, kemi.removed) == ([], [])


@pytest.mark.parametrize("value", [b"1\r\nVia: x", b"1\nVia: x", b"\xff"])
def test_a_row_that_is_several_or_no_text_is_not_sent_and_the_call_passes(value: bytes) -> None:
    kemi = Kemi()
    module, hook = client(kemi, Link(refusal(("Retry-After", b"5"), ("Reason", value))))
    assert hook.screen(None) == module.PASS
    assert kemi.reply is None
    assert kemi.reply_rows == []


def test_the_agent_gets_the_message_byte_for_byte_and_where_it_came_from() -> None:
    kemi, link = Kemi(transport="wss", source="[2001:db8::7]"), Link()
    _, hook = client(kemi, link)
    hook.screen(None, "carrier-east")
    request = link.asked[0]
    assert request.sip_message == INVITE
    assert (request.source_address, request.source_port) == ("2001:db8::7", 5060)
    assert (request.local_address, request.local_port) == ("192.0.2.1", 5062)
    assert (request.transport, request.trunk) == ("ws", "carrier-east")


def test_of_a_huge_message_the_agent_gets_the_header() -> None:
    kemi, link = Kemi(message=INVITE + b"x" * 60_000), Link()
    _, hook = client(kemi, link)
    hook.screen(None)
    assert link.asked[0].sip_message == (INVITE + b"x" * 60_000)[:48_000]


@pytest.mark.parametrize("error", [RuntimeError("constructed"), ValueError("x"), KeyError("y"), MemoryError()])
def test_an_error_of_our_own_passes_the_call_and_is_logged_once(error: Exception) -> None:
    kemi = Kemi()
    module, hook = client(kemi, Link(error=error))
    assert [hook.screen(None), hook.screen(None), hook.answered(None), hook.ended(None)] == [module.PASS] * 4
    assert len(kemi.logged) == 1


def test_what_kamailio_cannot_tell_passes_the_call() -> None:
    kemi = Kemi()
    kemi.pv = SimpleNamespace(get=lambda name: None)
    module, hook = client(kemi, Link(refusal()))
    assert hook.screen(None) == module.PASS
    assert kemi.reply is None


def test_events_name_the_call_and_the_time() -> None:
    kemi, link = Kemi(), Link()
    _, hook = client(kemi, link)
    before = time.time_ns() // 1000
    hook.answered(None)
    hook.ended(None, "486")
    hook.ended(None)
    answered, refused, hung_up = link.events
    assert {event.WhichOneof("event") for event in (answered,)} == {"answered"}
    assert refused.ended.sip_code == 486
    assert hung_up.sip_message == INVITE
    for event in link.events:
        assert (event.call_id, event.from_tag, event.to_tag) == ("c1", "f1", "")
        assert before <= event.at_unix_micros <= time.time_ns() // 1000
