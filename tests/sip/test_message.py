"""The full parse: rows and their bytes, folding, Content-Length of datagrams and streams, writing out again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import ParseError
from agent.sip.address import parse_address
from agent.sip.message import Message, facts, make_row, parse
from agent.sip.scan import MAX_MESSAGE
from tests.sip.texts import REQUEST, Written, messages, request


def places(message: Message) -> list[str]:
    return [defect.place for defect in message.defects]


def test_request_in_its_parts() -> None:
    message = parse(REQUEST)
    assert (message.method, message.request_uri) == ("INVITE", b"sip:+13035550199@sbc.example.net;user=phone")
    assert (message.status, message.phrase) == (0, b"")
    assert [row.name for row in message.rows] == [
        b"Via",
        b"Max-Forwards",
        b"From",
        b"To",
        b"Call-ID",
        b"CSeq",
        b"Content-Length",
    ]
    assert message.body == b"v=0\n"
    assert REQUEST[message.body_offset :] == message.body
    assert not message.defects


def test_response_in_its_parts() -> None:
    message = parse(b"SIP/2.0 603 Network Blocked\r\n\r\n")
    assert (message.status, message.phrase, message.method, message.request_uri) == (603, b"Network Blocked", "", b"")


@pytest.mark.parametrize("line", [b"SIP/2.0 100", b"SIP/2.0 100 "])
def test_response_without_phrase(line: bytes) -> None:
    assert parse(line + b"\r\n\r\n").phrase == b""


def test_rows_keep_their_bytes_and_lose_their_folds() -> None:
    raw = request(b"Subject:  one \r\n  two\r\n\tthree  ", b"s : four")
    message = parse(raw)
    assert message.header("subject") == message.header("S") == [b"one two three", b"four"]
    row = next(row for row in message.rows if row.key == b"subject")
    assert row.raw == b"Subject:  one \r\n  two\r\n\tthree  \r\n"
    assert raw[row.offset : row.offset + len(row.raw)] == row.raw


def test_value_on_the_next_line_and_folds_of_blanks_only() -> None:
    assert parse(request(b"Subject:\r\n a\r\n  \r\n b")).first("Subject") == b"a  b"


def test_escaped_letters_do_not_make_another_header() -> None:
    assert parse(request(b"C%6Fntact: <sip:a@b>", b"Contact: <sip:c@d>")).header("Contact") == [b"<sip:c@d>"]


def test_colon_must_stand_on_the_first_line() -> None:
    message = parse(request(b"Subject\r\n : x", b" : y"))
    assert message.header("Subject") == []
    assert places(message) == ["headers"]


def test_folded_line_directly_below_the_start_line_is_no_header() -> None:
    message = parse(b"INVITE sip:a@b SIP/2.0\r\n From: <sip:x@y>\r\nTo: <sip:c@d>\r\n\r\n")
    assert message.header("From") == []
    assert message.header("To") == [b"<sip:c@d>"]
    assert "headers" in places(message)


def test_bare_line_feeds_are_line_ends() -> None:
    crlf, lf = parse(REQUEST), parse(REQUEST.replace(b"\r\n", b"\n"))
    assert [row.value for row in crlf.rows] == [row.value for row in lf.rows]
    assert lf.body == crlf.body
    assert not lf.defects


def test_keep_alives_before_the_start_line_are_skipped() -> None:
    message = parse(b"\r\n\r\n" + REQUEST)
    assert message.serialise() == REQUEST
    assert message.rows[0].offset == 4 + parse(REQUEST).rows[0].offset


def test_start_line_alone_is_a_message_with_defects() -> None:
    message = parse(b"OPTIONS sip:a@b SIP/2.0")
    assert places(message) == ["headers", "Via", "From", "To", "Call-ID", "CSeq"]
    assert message.body_offset == len(message.raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        b"\x00" * 40,
        b"INVITE\r\n\r\n",
        b"INVITE sip:a@b\r\n\r\n",
        b"INVITE sip:a@b SIP/2.0 \r\n\r\n",
        b"INVITE  sip:a@b SIP/2.0\r\n\r\n",
        b"INVITE <sip:a@b> SIP/2.0\r\n\r\n",
        b"INVITE sip:a@b SIP/3.0\r\n\r\n",
        b"IN(ITE sip:a@b SIP/2.0\r\n\r\n",
        b"SIP/2.0 99 x\r\n\r\n",
        b"SIP/2.0 700 x\r\n\r\n",
        b"SIP/2.0 2000 x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_bytes_without_a_usable_start_line_are_refused(raw: bytes) -> None:
    with pytest.raises(ParseError) as refusal:
        parse(raw)
    assert refusal.value.place == "start-line"
    assert 0 <= refusal.value.offset <= len(raw)


def test_message_over_the_bound_is_refused() -> None:
    head = request(b"Subject: x")
    assert parse(head.ljust(MAX_MESSAGE, b"x")).body
    with pytest.raises(ParseError) as refusal:
        parse(head.ljust(MAX_MESSAGE + 1, b"x"))
    assert refusal.value.place == "message"


def test_surplus_of_a_datagram_is_ignored() -> None:
    message = parse(request(b"Content-Length: 2", body=b"abcdef"))
    assert message.body == b"ab"
    assert not message.defects


def test_surplus_of_a_framed_message_is_a_defect() -> None:
    message = parse(request(b"Content-Length: 2", body=b"abcdef"), stream=True)
    assert places(message) == ["body"]


@pytest.mark.parametrize("stream", [False, True])
def test_body_shorter_than_content_length_is_a_defect(stream: bool) -> None:
    message = parse(request(b"l: 7", body=b"abc"), stream)
    assert message.body == b"abc"
    assert places(message) == ["Content-Length"]


def test_content_length_may_be_absent_in_a_datagram_only() -> None:
    raw = request(body=b"to the end")
    assert parse(raw).body == b"to the end"
    assert not parse(raw).defects
    assert places(parse(raw, stream=True)) == ["Content-Length"]


@pytest.mark.parametrize("value", [b"-999", b"+3", b"3x", b"0x3", b"", b"3 4", b"1_0", b"\xd9\xa3", b"3, 3"])
def test_content_length_that_is_no_number_is_a_defect(value: bytes) -> None:
    message = parse(request(b"Content-Length: " + value, body=b"abc"))
    assert places(message) == ["Content-Length"]
    assert facts(message).content_length == -1
    assert message.body == b"abc"


def test_content_length_of_a_thousand_digits_is_read_in_bounded_work() -> None:
    message = parse(request(b"Content-Length: " + b"9" * 60_000))
    assert facts(message).content_length == 2**63 - 1
    assert places(message) == ["Content-Length"]
    assert facts(parse(request(b"Content-Length: " + b"0" * 60_000 + b"3", body=b"abc"))).content_length == 3


def test_first_content_length_counts_and_the_second_is_a_defect() -> None:
    message = parse(request(b"Content-Length: 13", b"l: 5", body=b"x" * 64))
    assert len(message.body) == 13
    assert places(message) == ["Content-Length", "Content-Length"]


def test_addresses_of_a_list_come_from_rows_and_commas_in_order() -> None:
    message = parse(
        request(b'P-Asserted-Identity: "a, b" <sip:1@x>, <tel:+12015550123>', b"p-asserted-identity: sip:3@x")
    )
    assert [a.uri for a in message.addresses("P-Asserted-Identity")] == [b"sip:1@x", b"tel:+12015550123", b"sip:3@x"]


def test_lines_that_are_no_headers_survive() -> None:
    raw = request(b"no colon", b": no name", b"X: y")
    assert parse(raw).serialise() == raw


def test_truncated_message_is_completed_when_written() -> None:
    raw = request(b"X: y")
    for cut in (2, 3, 4):
        assert parse(raw[:-cut]).serialise() == raw
    lf = raw.replace(b"\r\n", b"\n")
    assert parse(lf[:-1]).serialise() == lf[:-1] + b"\r\n"


def test_changed_row_leaves_the_others_byte_for_byte() -> None:
    message = parse(REQUEST)
    rows = [make_row("Max-Forwards", "69") if row.key == b"max-forwards" else row for row in message.rows]
    assert message.with_rows(rows).serialise() == REQUEST.replace(b"Max-Forwards: 70", b"Max-Forwards: 69")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "a\r\nVia: evil"),
        ("X", "a\nb"),
        ("X", "a\x00"),
        ("X Y", "a"),
        ("", "a"),
        ("Übel", "a"),
        ("X:", "a"),
    ],
)
def test_row_of_our_own_cannot_begin_another_row(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"token|control character"):
        make_row(name, value)


@given(messages())
def test_every_way_of_writing_a_message_is_read_alike(written: Written) -> None:
    message = parse(written.raw)
    it = facts(message)
    assert (it.from_uri, it.from_tag) == (written.from_uri, written.tag)
    assert (it.branch, it.sent_by) == (b"z9hG4bKa1", b"192.0.2.10:5060")
    assert (it.cseq, it.cseq_method, it.call_id) == (7, "INVITE", written.values["Call-ID"])
    assert it.to_uri == b"sip:+13035550199@sbc.example.net"
    assert message.body == written.body
    assert len(message.first("Subject").split()) == 2
    assert not message.defects
    caller = parse_address(message.first("From"))
    assert caller.display == written.display


@given(messages(), st.data())
def test_parsing_and_writing_gives_the_same_bytes(written: Written, data: st.DataObject) -> None:
    keep_alives = data.draw(st.sampled_from([b"", b"\r\n", b"\r\n\r\n"]))
    surplus = data.draw(st.binary(max_size=20))
    assert parse(keep_alives + written.raw + surplus).serialise() == written.raw


@given(st.binary(max_size=400))
def test_any_bytes_behind_a_start_line_are_read_and_nothing_is_lost(rest: bytes) -> None:
    raw = b"INVITE sip:a@b SIP/2.0\r\n" + rest
    message = parse(raw)
    assert message.start_line + b"".join(row.raw for row in message.rows) + message.blank == raw[: message.body_offset]
    assert all(0 <= defect.offset <= len(raw) for defect in message.defects)
