"""The compiled answer gives the bytes, the port and the errors of its Python reference."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import native
from agent.model import Answer, ParseError
from agent.sip.answers import Rendered, build_reply_py, render, unavailable
from agent.sip.scan import scan, scan_py
from agent.sip.tags import transaction_tag_py
from tests.benchmarks.messages import invite
from tests.native.sip_strategies import ATOMS, anything, damaged
from tests.sip.texts import Written, messages, request

pytestmark = pytest.mark.skipif(native.answer is None, reason="the compiled twin is not built")

RENDERED = render(unavailable(7))
SOURCE = ("192.0.2.9", 5062)

vias = st.lists(
    st.sampled_from((
        b"SIP/2.0/UDP ", b"192.0.2.1", b"[2001:db8::1]", b":5071", b" : 5072", b":0", b":70000", b";rport", b";RPORT=1",
        b";received=192.0.2.3", b"; branch = z9", b" , ", b"SIP/2.0/TCP b", b";x=\"1,2\"", b";", b"=", *ATOMS,
    )),
    max_size=8,
).map(b"".join)  # fmt: skip


def native_reply(raw: bytes, tag: str, source: tuple[str, int] | None) -> tuple[bytes, int] | None:
    """What the compiled twin says, None where it leaves the answer to the reference."""
    assert native.answer is not None
    host, port = source or (None, 0)
    reply: tuple[bytes, int] | None = native.answer.build(raw, *RENDERED, tag, host, port)
    return reply


def agree(raw: bytes, tag: str = "t1", source: tuple[str, int] | None = SOURCE) -> bool:
    """Assert that both twins answer alike, and say whether the compiled one answered."""
    mine = native_reply(raw, tag, source)
    if mine is not None:
        assert mine == build_reply_py(raw, RENDERED, tag, source)
    return mine is not None


@given(anything, st.sampled_from((None, SOURCE, ("2001:db8::9", 65535))))
def test_any_bytes(raw: bytes, source: tuple[str, int] | None) -> None:
    agree(raw, source=source)


@given(messages(), st.sampled_from((None, SOURCE)))
def test_any_request(written: Written, source: tuple[str, int] | None) -> None:
    agree(written.raw, source=source)


@given(st.lists(vias, min_size=1, max_size=3), st.one_of(st.just(b"<sip:b@sbc.example.net>"), vias))
def test_any_via_and_to(rows: list[bytes], to: bytes) -> None:
    agree(request(*(b"Via: " + row for row in rows), b"To: " + to, without=(b"Via", b"To")))


@given(damaged(st.just(invite(identity=False))))
def test_damaged_invite(raw: bytes) -> None:
    agree(raw)
    agree(raw, source=None)


def test_every_message_of_the_corpus(corpus: Path) -> None:
    files = sorted((corpus / "sip").glob("*.sip"))
    assert files
    answered = [agree(file.read_bytes()) for file in files]
    assert sum(answered) > 10


def test_what_nearly_every_caller_sends_is_answered_by_the_compiled_twin() -> None:
    assert agree(invite())
    assert agree(invite(), source=None)
    assert agree(invite().replace(b"\r\n", b"\n"))


@pytest.mark.parametrize(
    ("via", "port"),
    [
        (b"SIP/2.0/UDP 192.0.2.1:5071;rport;branch=x", 5062),
        (b"SIP/2.0/UDP 192.0.2.1:5071;branch=x", 5071),
        (b"SIP/2.0/UDP 192.0.2.1 : 5071 ;branch=x", 5071),
        (b"SIP/2.0/UDP 192.0.2.1;branch=x", 5060),
        (b"SIP/2.0/UDP [2001:db8::1];branch=x", 5060),
        (b"SIP/2.0/UDP [2001:db8::1]:5073;branch=x", 5073),
        (b"SIP/2.0/UDP 2001:db8::1;branch=x", 5060),
        (b"SIP/2.0/UDP 192.0.2.1:0;branch=x", 5060),
        (b"SIP/2.0/UDP 192.0.2.1:65536;branch=x", 5060),
        (b"SIP/2.0/UDP a:5071;branch=x, SIP/2.0/UDP b:5072;rport", 5071),
    ],
)
def test_answer_goes_to_the_source_port_if_asked_for_and_else_to_the_one_of_sent_by(via: bytes, port: int) -> None:
    raw = request(b"Via: " + via, without=(b"Via",))
    assert build_reply_py(raw, RENDERED, "t", SOURCE)[1] == port
    assert agree(raw)


@pytest.mark.parametrize("tag", ["", "a b", "ü", "a\n", "\u0661"])
def test_tag_that_is_no_token_is_left_to_the_reference(tag: str) -> None:
    assert native_reply(invite(), tag, SOURCE) is None


@pytest.mark.parametrize("port", [-1, 0, 65536, 2**70])
def test_port_that_is_none_is_left_to_the_reference(port: int) -> None:
    assert native_reply(invite(), "t", ("192.0.2.9", port)) is None


def test_long_answers_are_whole() -> None:
    assert native.answer is not None
    long = Rendered(b"SIP/2.0 603 Decline\r\n", render(Answer(603, "Decline", (("Reason", "x" * 9000),))).rows)
    raw = request(*(b"v: SIP/2.0/UDP a\n ;b=%d" % i for i in range(2000)))
    built = native.answer.build(raw, long.status_line, long.rows, "t", None, 0)
    assert built == build_reply_py(raw, long, "t", None)


def test_arguments_of_other_types_are_refused() -> None:
    assert native.answer is not None
    with pytest.raises(TypeError):
        native.answer.build(b"")
    assert native.answer.build(bytearray(invite()), *RENDERED, "t", None, 0) is None


@given(anything, st.binary(max_size=64))
def test_tag_of_any_message(raw: bytes, secret: bytes) -> None:
    assert native.answer is not None
    for read in (scan, scan_py):
        try:
            message = read(raw)
        except ParseError:
            return
        assert native.answer.transaction_tag(secret, message) == transaction_tag_py(secret, message)


@given(st.tuples(*[st.binary(max_size=300)] * 4), st.integers(0, 2**32 - 1), st.binary(max_size=64))
def test_tag_of_any_fields(texts: tuple[bytes, ...], cseq: int, secret: bytes) -> None:
    assert native.answer is not None
    names = ("call_id", "from_tag", "branch", "sent_by")
    message: Any = SimpleNamespace(**dict(zip(names, texts, strict=True)), cseq=cseq)
    assert native.answer.transaction_tag(secret, message) == transaction_tag_py(secret, message)


@pytest.mark.parametrize("length", range(0, 400, 7))
def test_tag_of_every_length_around_the_blocks_of_the_hash(length: int) -> None:
    assert native.answer is not None
    message: Any = SimpleNamespace(call_id=b"x" * length, from_tag=b"", branch=b"", sent_by=b"", cseq=1)
    for secret in (b"", b"s", b"s" * 64):
        assert native.answer.transaction_tag(secret, message) == transaction_tag_py(secret, message)


def test_tag_of_what_is_no_message_is_an_error() -> None:
    assert native.answer is not None
    wrong: Any
    for wrong in (SimpleNamespace(call_id="x"), SimpleNamespace(), None):
        with pytest.raises((TypeError, AttributeError)):
            native.answer.transaction_tag(b"", wrong)
    for tag in (native.answer.transaction_tag, transaction_tag_py):
        with pytest.raises(ValueError, match=r"64|key"):
            tag(b"s" * 65, scan(invite()))
