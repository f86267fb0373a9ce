"""Input made to be slow: each kind fills a whole message and must cost time in proportion to its bytes."""

import time

import pytest

from agent.sip.answers import build_answer, decline, read_block_reason
from agent.sip.message import facts, parse
from agent.sip.scan import MAX_MESSAGE
from tests.sip.texts import request

UNITS = [
    b",",
    b'"',
    b"'",
    b" ",
    b"\t",
    b";",
    b":",
    b"<",
    b">",
    b"=",
    b"\\",
    b"%",
    b"@",
    b"/",
    b"\r",
    b"\x00",
    b"\xff",
    b'"\\',
    b'\\"',
    b'",',
    b"<>",
    b"<>,",
    b";=",
    b"; ",
    b" ;",
    b", ",
    b"a ",
    b"a\t;",
    b"\r\n ",
    b"\r\n\t;",
    b" \r\n ",
    b"\r\n x",
    b"sip:a@b,",
    b"<sip:a@b>;",
    b";tag=1",
    b"SIP/2.0/UDP a,",
    b"SIP/",
    b"a=b;",
    b"1",
    b"0",
    b"%41",
    b"a:",
    b"[",
    b"(",
    b"v=analytics1;",
]
HEADERS = [
    b"From",
    b"To",
    b"Via",
    b"Contact",
    b"P-Asserted-Identity",
    b"Diversion",
    b"Route",
    b"CSeq",
    b"Call-ID",
    b"Content-Length",
    b"Retry-After",
    b"Date",
    b"Reason",
    b"Identity",
    b"Subject",
    b"Max-Forwards",
]

# Linear work on 65,535 bytes takes 1 to 150 ms here; quadratic work takes many seconds.
SECONDS = 1.0


def cost(raw: bytes) -> float:
    started = time.perf_counter()
    message = parse(raw)
    facts(message)
    read_block_reason(message)
    message.serialise()
    return time.perf_counter() - started


@pytest.mark.parametrize("unit", UNITS)
def test_header_full_of_one_thing(unit: bytes) -> None:
    for name in HEADERS:
        for before, after in ((b"", b""), (b'"', b'" <sip:a@b>'), (b"<sip:", b"@b>"), (b"<sip:a@b>;x=", b"\r\n y")):
            row = name + b": " + before
            rest = MAX_MESSAGE - len(request(row)) - len(after)
            raw = request(row + unit * (rest // len(unit)) + after, without=(name,))
            assert len(raw) <= MAX_MESSAGE
            assert cost(raw) < SECONDS, (name, before)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b":\n",
        b"a:\n",
        b" \n",
        b"a\n",
        b"v:\n",
        b"Via: ,\n",
        b"f:<\n",
        b'm:"\n',
        b"m:,\n",
        b"l:1\n",
        b"a:b\r\n c\n",
        b"\r\r\n",
    ],
)
def test_message_full_of_short_rows(line: bytes) -> None:
    start = b"INVITE sip:a@b SIP/2.0\r\n"
    assert cost(start + line * ((MAX_MESSAGE - len(start)) // len(line))) < SECONDS


@pytest.mark.parametrize(
    "uri",
    [
        b"sip:" + b"a" * 60_000,
        b"sip:" + b"a;" * 30_000 + b"@b",
        b"sip:b" + b";a" * 30_000,
        b"sip:b?" + b"a=&" * 20_000,
        b"tel:+" + b"-" * 60_000,
        b"%41" * 20_000,
        b"a" * 60_000,
        b"sip:[" + b":" * 60_000 + b"]",
        b"sip:a:" + b"9" * 60_000,
        b"@" * 60_000,
    ],
)
def test_long_request_uri(uri: bytes) -> None:
    raw = request().replace(b"sip:+13035550199@sbc.example.net SIP", uri + b" SIP")
    assert parse(raw).request_uri == uri
    assert cost(raw) < SECONDS


@pytest.mark.parametrize("unit", [b" ", b";", b'"', b"\r\n ", b" \r\n ", b",", b"a;"])
def test_answer_to_a_request_full_of_one_thing(unit: bytes) -> None:
    for name in (b"Via", b"To", b"From"):
        raw = request(name + b": x" + unit * (60_000 // len(unit)), without=(name,))
        started = time.perf_counter()
        assert build_answer(raw, decline(), to_tag="t", source=("192.0.2.9", 5060))
        assert time.perf_counter() - started < SECONDS
