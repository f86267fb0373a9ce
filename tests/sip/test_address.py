"""Addresses: the table of forms that From, To and P-Asserted-Identity take on the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import ParseError
from agent.sip.address import Address, parse_address, read_address, read_tag
from agent.sip.headers import Param, split_addresses
from tests.sip.texts import hosts, parameters, quoted_texts, users

FORMS = [
    # wire form, display, addr-spec, subscriber, header parameters
    (
        b"<sip:+12015550123@a.example;user=phone>;tag=1",
        b"",
        b"sip:+12015550123@a.example;user=phone",
        b"+12015550123",
        (Param(b"tag", b"1"),),
    ),
    (
        b"sip:+12015550123@a.example;user=phone;tag=1",
        b"",
        b"sip:+12015550123@a.example",
        b"+12015550123",
        (Param(b"user", b"phone"), Param(b"tag", b"1")),
    ),
    (
        b'"A <sip:evil@x>, B" <sip:12015550123@a.example>',
        b"A <sip:evil@x>, B",
        b"sip:12015550123@a.example",
        b"12015550123",
        (),
    ),
    (
        b'"Smith, \\"Bo\\" \\\\ <Sales>" <sip:12015550123@a.example>',
        b'Smith, "Bo" \\ <Sales>',
        b"sip:12015550123@a.example",
        b"12015550123",
        (),
    ),
    (b"Alice<sip:+12015550123@a.example>", b"Alice", b"sip:+12015550123@a.example", b"+12015550123", ()),
    (
        b"Alice B. Carol <sip:+12015550123@a.example>",
        b"Alice B. Carol",
        b"sip:+12015550123@a.example",
        b"+12015550123",
        (),
    ),
    (b"<sips:2015550123@a.example>", b"", b"sips:2015550123@a.example", b"2015550123", ()),
    (b"<tel:+1-201-555-0123;ext=9>", b"", b"tel:+1-201-555-0123;ext=9", b"+1-201-555-0123", ()),
    (b"<tel:2015550123;phone-context=+1>", b"", b"tel:2015550123;phone-context=+1", b"2015550123", ()),
    (
        b"<sip:+12015550123;npdi;rn=+12015551000@gw;user=phone>",
        b"",
        b"sip:+12015550123;npdi;rn=+12015551000@gw;user=phone",
        b"+12015550123",
        (),
    ),
    (b"<sip:+1201555%30123@gw>", b"", b"sip:+1201555%30123@gw", b"+12015550123", ()),
    (
        b"<sip:+12015550123;verstat=TN-Validation-Passed@gw;user=phone>",
        b"",
        b"sip:+12015550123;verstat=TN-Validation-Passed@gw;user=phone",
        b"+12015550123",
        (),
    ),
    (b"<sip:0112015550123@gw>", b"", b"sip:0112015550123@gw", b"0112015550123", ()),
    (b"<sip:alice%40home@a.example>", b"", b"sip:alice%40home@a.example", b"alice@home", ()),
    (
        b'"Anonymous" <sip:anonymous@anonymous.invalid>;tag=3c',
        b"Anonymous",
        b"sip:anonymous@anonymous.invalid",
        b"anonymous",
        (Param(b"tag", b"3c"),),
    ),
    (b"<sip:a.example>", b"", b"sip:a.example", b"", ()),
    (b'"" <sip:a.example>', b"", b"sip:a.example", b"", ()),
    (b'"Andr\xe9" <sip:a@b>', b"Andr\xe9", b"sip:a@b", b"a", ()),
    (b"Andr\xc3\xa9 <sip:a@b>", b"Andr\xc3\xa9", b"sip:a@b", b"a", ()),
    (b"<sip:a@b> ; tag = 1 ; x", b"", b"sip:a@b", b"a", (Param(b"tag", b"1"), Param(b"x", None))),
    (b'<sip:a@b>;x="1;tag=evil";tag=2', b"", b"sip:a@b", b"a", (Param(b"x", b'"1;tag=evil"'), Param(b"tag", b"2"))),
]


@pytest.mark.parametrize(("wire", "display", "uri", "subscriber", "params"), FORMS)
def test_address_form(wire: bytes, display: bytes, uri: bytes, subscriber: bytes, params: tuple[Param, ...]) -> None:
    address = parse_address(wire)
    assert address == Address(display, uri, params)
    assert address.parsed_uri().subscriber == subscriber


@pytest.mark.parametrize(("wire", "display", "uri", "subscriber", "params"), FORMS)
def test_screening_and_grammar_read_the_same_address(
    wire: bytes, display: bytes, uri: bytes, subscriber: bytes, params: tuple[Param, ...]
) -> None:
    found, params_text = read_address(wire)
    assert found == uri
    assert read_tag(params_text) == parse_address(wire).tag


@pytest.mark.parametrize(
    ("wire", "offset", "uri"),
    [
        # wire form, byte of the complaint, what screening reads nevertheless
        (b"", 0, b""),
        (b"<>", 1, b""),
        (b'"Mr. J. User <sip:j.user@example.com>', 0, b""),
        (b'"Mr. J. User\\" <sip:j.user@example.com>', 0, b""),
        (b"<sip:a@b", 0, b""),
        (b'"A" sip:a@b', 0, b""),
        (b"Bell, Alexander <sip:a.g.bell@example.com>;tag=43", 0, b"sip:a.g.bell@example.com"),
        (b"< sip:a@b >", 1, b"sip:a@b"),
        (b"<sip:a @b>", 1, b"sip:a @b"),
        (b"sip:a@b junk;tag=1", 0, b"sip:a@b"),
        (b"sip:a@b?Route=x", 7, b"sip:a@b?Route=x"),
        (b"sip:a,b@c", 5, b"sip:a,b@c"),
        (b"<sip:a@b>junk;tag=1", 9, b"sip:a@b"),
        (b"<sip:a@b>;", 9, b"sip:a@b"),
        (b"<sip:a@b>;;tag=1", 9, b"sip:a@b"),
        (b"<sip:a@b>;tag=", 9, b"sip:a@b"),
        (b"<sip:a@b>;tag=1;TAG=2", 9, b"sip:a@b"),
        (b'<sip:a@b>;x="1', 9, b"sip:a@b"),
        (b"<sip:a@b>;t g=1", 9, b"sip:a@b"),
        (b"sip:evil@x;y <sip:good@z>", 10, b"sip:evil@x"),
    ],
)
def test_malformed_address_is_complained_about_and_still_read(wire: bytes, offset: int, uri: bytes) -> None:
    with pytest.raises(ParseError) as refusal:
        parse_address(wire)
    assert refusal.value.offset == offset
    assert read_address(wire)[0] == uri


def test_list_is_split_outside_quotes_and_brackets_only() -> None:
    value = b'"a, b" <sip:c,d@e>;x="f,g", <tel:+12015550123> ,h'
    assert split_addresses(value) == [b'"a, b" <sip:c,d@e>;x="f,g"', b"<tel:+12015550123>", b"h"]
    assert split_addresses(b'a, "b, c') == [b"a", b'"b, c']
    assert split_addresses(b"a, <b, c") == [b"a", b"<b, c"]


@given(quoted_texts, users, hosts, parameters)
def test_written_address_is_read_back(
    display: bytes, user: bytes, host: bytes, params: list[tuple[bytes, bytes | None]]
) -> None:
    address = Address(display, b"sip:" + user + b"@" + host, tuple(Param(*p) for p in params))
    assert parse_address(bytes(address)) == address


PIECES = (b'"', b"\\", b"<", b">", b";", b",", b" ", b"=", b"tag", b"sip:a@b", b"x")


@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_where_the_grammar_accepts_screening_reads_the_same(pieces: list[bytes]) -> None:
    wire = b"".join(pieces).strip(b" ")
    try:
        address = parse_address(wire)
    except ParseError:
        return
    uri, params_text = read_address(wire)
    assert (uri, read_tag(params_text)) == (address.uri, address.tag)
    assert parse_address(bytes(address)) == address
