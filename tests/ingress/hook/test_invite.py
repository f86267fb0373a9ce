"""The INVITE made of parsed fields reads back as those fields, or is refused by the name of the field."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ingress.hook.invite import InviteFields, build_invite
from agent.model import ParseError
from agent.sip.message import parse
from agent.sip.scan import scan

FIELDS = InviteFields(
    method="INVITE",
    request_uri="sip:+13035550199@sbc.example.net;user=phone",
    call_id="a1@a.example.net",
    from_uri="sip:+12015550123@a.example.net",
    from_tag="9f",
    to_uri="sip:+13035550199@sbc.example.net",
    to_tag="",
    cseq=5,
    via_branch="z9hG4bK1",
    via_sent_by="192.0.2.10:5060",
    asserted_identities=("sip:+12015550124@a.example.net", '"A, B" <tel:+12015550125>'),
    identity=(b"eyJ.\r\n e30.sig;info=<https://example.net/a>", b"second"),
    diversion=("<sip:+13035550100@b.example.net>;reason=unconditional",),
    privacy="id",
    priority="emergency",
    resource_priority="esnet.1",
)
TEXTS = ("method", "request_uri", "call_id", "from_uri", "from_tag", "to_uri", "to_tag", "via_branch", "via_sent_by",
         "privacy", "priority", "resource_priority")  # fmt: skip


def built(**fields: Any) -> bytes:
    return build_invite(replace(FIELDS, **fields), "tcp", "192.0.2.10")


def test_every_field_reads_back() -> None:
    raw = built()
    read = scan(raw)
    assert (read.method, read.request_uri, read.call_id) == ("INVITE", FIELDS.request_uri.encode(), b"a1@a.example.net")
    assert (read.from_uri, read.from_tag) == (FIELDS.from_uri.encode(), b"9f")
    assert (read.to_uri, read.to_tag) == (FIELDS.to_uri.encode(), b"")
    assert (read.branch, read.sent_by) == (b"z9hG4bK1", b"192.0.2.10:5060")
    assert (read.cseq, read.cseq_method) == (5, "INVITE")
    assert read.asserted == (b"sip:+12015550124@a.example.net", b"tel:+12015550125")
    assert read.identity == FIELDS.identity
    assert read.diversion == (b"sip:+13035550100@b.example.net",)
    assert (read.privacy, read.priority, read.resource_priority) == (b"id", b"emergency", b"esnet.1")
    assert b"Via: SIP/2.0/TCP " in raw
    assert [d for d in parse(raw).defects if d.place not in ("Max-Forwards", "Contact")] == []


def test_no_method_is_invite_and_what_is_absent_has_no_row() -> None:
    bare = InviteFields("", "sip:911@x", "c", "sip:a@b", "", "", "", 0, "", "", (), (), (), "", "", "")
    raw = build_invite(bare, "udp", "")
    assert raw == (
        b"INVITE sip:911@x SIP/2.0\r\nFrom: <sip:a@b>\r\nCall-ID: c\r\nCSeq: 0 INVITE\r\nContent-Length: 0\r\n\r\n"
    )


def test_the_peer_stands_for_a_sent_by_that_is_not_known() -> None:
    assert scan(build_invite(replace(FIELDS, via_sent_by=""), "udp", "2001:db8::1")).sent_by == b"[2001:db8::1]"


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize("bad", ["\r\nIdentity: x", "\nX: y", "\r", "\0", "\x0b", "\x7f"])
def test_a_line_break_or_control_is_refused_in_every_field(field: str, bad: str) -> None:
    with pytest.raises(ParseError) as refused:
        built(**{field: f"a{bad}"})
    assert refused.value.place == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("request_uri", "sip:a b"),
        ("request_uri", "<sip:a@b>"),
        ("request_uri", ""),
        ("from_uri", "sip:a@b>;tag=x"),
        ("from_uri", ""),
        ("from_tag", "x;y=z"),
        ("to_uri", "sip:a@b> "),
        ("call_id", ""),
        ("call_id", "a b"),
        ("via_branch", "b;received=198.51.100.1"),
        ("via_branch", "b,SIP/2.0/UDP x"),
        ("via_sent_by", "x;branch=z9hG4bKevil"),
        ("method", "INVITE sip:x SIP/2.0"),
        ("cseq", 2**31),
    ],
)
def test_what_would_end_a_field_early_is_refused(field: str, value: object) -> None:
    with pytest.raises(ParseError) as refused:
        built(**{field: value})
    assert refused.value.place == field


@pytest.mark.parametrize("row", [b"a\r\nX: y", b"a\nb", b"a\r\n", b"a\r b", b"a\r\n\r\n b", b"", b"a\0"])
def test_an_identity_row_may_fold_and_nothing_else(row: bytes) -> None:
    with pytest.raises(ParseError) as refused:
        built(identity=(b"good", row))
    assert refused.value.place == "identity[1]"


def test_lists_name_their_element() -> None:
    with pytest.raises(ParseError) as refused:
        built(asserted_identities=("sip:a@b", "<sip:a@b>\r\nX: y"))
    assert refused.value.place == "asserted_identities[1]"
    with pytest.raises(ParseError) as refused:
        built(diversion=("sip:a@b c",))
    assert refused.value.place == "diversion[0]"


def test_a_message_longer_than_any_that_is_screened_is_refused() -> None:
    with pytest.raises(ParseError, match="65535"):
        built(identity=(b"x" * 40_000, b"x" * 40_000))


NASTY = st.text(st.sampled_from('ab:;,<>@"\\ \t\r\n\0é=/()'), max_size=12)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(TEXTS, NASTY)),
       st.lists(NASTY, max_size=2), st.lists(st.binary(max_size=12), max_size=2))  # fmt: skip
def test_whatever_is_given_no_field_becomes_a_row_of_its_own(
    texts: dict[str, str], asserted: list[str], identity: list[bytes]
) -> None:
    fields = replace(FIELDS, **texts, asserted_identities=tuple(asserted), identity=tuple(identity))  # type: ignore[arg-type]
    try:
        raw = build_invite(fields, "udp", "192.0.2.10")
    except ParseError:
        return
    names = [row.name.decode() for row in parse(raw).rows]
    expected = {"Via", "From", "To", "Call-ID", "CSeq", "P-Asserted-Identity", "Identity", "Diversion", "Privacy",
                "Priority", "Resource-Priority", "Content-Length"}  # fmt: skip
    assert set(names) <= expected
    assert names.count("P-Asserted-Identity") == len(asserted)
    assert names.count("Identity") == len(identity)
    assert all(names.count(name) <= 1 for name in expected - {"P-Asserted-Identity", "Identity"})
    read = scan(raw)
    assert read.call_id == fields.call_id.encode()
    assert (read.from_tag, read.to_tag) == (fields.from_tag.encode(), fields.to_tag.encode())
    assert read.branch == fields.via_branch.encode()
    assert raw[read.body_offset :] == b""
