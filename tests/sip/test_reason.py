"""Reading 603+: every form that carriers print, and every 603 that is none."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sip.answers import build_answer, network_blocked, read_block_reason
from agent.sip.message import parse
from agent.sip.reason import LOCATIONS, BlockNotice, Protocol, parse_reason, read_block_notice
from tests.sip.texts import REQUEST

URL = "https://redress.example.net/b"


def read(reason: str, status: int = 603, phrase: str = "Network Blocked") -> BlockNotice | None:
    return read_block_notice(status, phrase.encode(), [reason.encode()])


def test_examples_that_carriers_print(shared_data: Path) -> None:
    path = shared_data / "block-response" / "vendor-docs" / "cases.json"
    for case in json.loads(path.read_text()):
        reason = case["reason"].replace("...", f';url={URL}"')  # one example is printed with an ellipsis
        notice = read(reason, case.get("status", 603), case.get("phrase", "Network Blocked"))
        assert (notice is not None) == case["is_603plus"], case
        assert notice is None or notice.url.startswith("https://")


def test_notice_with_everything() -> None:
    notice = read(
        f'SIP;cause=603;text="v=analytics1;url={URL};tel=+12015550100;email=r@example.net;id=E7-1";location=RLN'
    )
    assert notice == BlockNotice(URL, "+12015550100", "r@example.net", "E7-1", "RLN", "SIP")


@pytest.mark.parametrize(
    "reason",
    [
        f'SIP;cause=603;text="v=analytics1;url={URL}";location=RLN',
        f'sip ; cause = 603 ; text = "v=analytics1 ; url = {URL} " ; location = rln',
        f'SIP;text="V=Analytics1;URL={URL}";location=RLN;cause=603',
        f'SIP;cause=603;text="v=analytics1;x=y;url={URL};";location=RLN',
        f'SIP;cause=603;text="v=analytics1;url={URL}',
        f'SIP;cause=603;v=analytics1;url="{URL}";location=RLN',
        f'SIP ;cause=603 ;v="analytics1" ;url={URL}',
        f'Q.850;cause=16;text="x", SIP;cause=603;text="v=analytics1;url={URL}"',
        f'STIR;cause=436;text="a, b", Q.850; cause=21; text="v=analytics1;url={URL}";location=RLN',
    ],
)
@pytest.mark.parametrize("phrase", ["Network Blocked", "network blocked", " NETWORK BLOCKED "])
def test_lenient_reading(reason: str, phrase: str) -> None:
    notice = read(reason, phrase=phrase)
    assert notice is not None
    assert notice.url == URL
    assert notice.location in ("RLN", "")


@pytest.mark.parametrize(
    ("reason", "status", "phrase"),
    [
        (f'SIP;cause=603;text="v=analytics1;url={URL}"', 603, "Decline"),
        (f'SIP;cause=603;text="v=analytics1;url={URL}"', 608, "Network Blocked"),
        ('SIP;cause=603;text="Network Blocked"', 603, "Network Blocked"),
        (f'SIP;cause=603;text="url={URL};v=analytics1"', 603, "Network Blocked"),
        (f'SIP;cause=603;text="x;v=analytics1;url={URL}"', 603, "Network Blocked"),
        (f'SIP;cause=603;text="v=analytics10;url={URL}"', 603, "Network Blocked"),
        (f'SIP;cause=603;text="v=analytics2;url={URL}"', 603, "Network Blocked"),
        (f'SIP;cause=200;text="v=analytics1;url={URL}"', 603, "Network Blocked"),
        (f'Q.850;cause=603;text="v=analytics1;url={URL}"', 603, "Network Blocked"),
        (f'SIP;text="v=analytics1;url={URL}"', 603, "Network Blocked"),
        (f'STIR;cause=603;text="v=analytics1;url={URL}"', 603, "Network Blocked"),
        ('SIP;cause=603;text=";v=analytics1', 503, "Network Blocked"),
        ("", 603, "Network Blocked"),
        ("SIP", 603, "Network Blocked"),
    ],
)
def test_ordinary_refusals_are_not_603_plus(reason: str, status: int, phrase: str) -> None:
    assert read(reason, status, phrase) is None


def test_notice_in_a_later_row_is_found() -> None:
    rows = [b"Q.850;cause=21", f'SIP;cause=603;text="v=analytics1;url={URL}"'.encode()]
    assert read_block_notice(603, b"Network Blocked", rows) is not None


def test_response_without_reason_is_no_notice() -> None:
    assert read_block_reason(parse(b"SIP/2.0 603 Network Blocked\r\n\r\n")) is None
    assert read_block_reason(parse(REQUEST)) is None


def test_constructed_response_of_the_corpus(corpus: Path) -> None:
    message = parse((corpus / "sip" / "parse-603plus.sip").read_bytes())
    assert read_block_reason(message) == BlockNotice(URL, "+12015550100", "", "E7-20261014", "RLN", "SIP")


def test_reason_values_are_split_outside_quotes() -> None:
    values = parse_reason(b'SIP;cause=603;text="a;b, \\"c\\"";location=LN, Q.850 ;cause=21, , STIR;x;cause=4y;cause=1')
    assert [(v.protocol, v.cause, v.text, v.location) for v in values] == [
        ("SIP", 603, 'a;b, "c"', "LN"),
        ("Q.850", 21, "", ""),
        ("STIR", -1, "", ""),
    ]


PROTOCOLS: list[tuple[Protocol, ...]] = [("SIP",), ("Q.850",), ("Q.850", "SIP")]
_TEXT = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_", min_size=1, max_size=20)
_URLS = st.text("abcXYZ019-._~:/?#[]@!$&'()*+,;=%\"\\", max_size=60).map("https://r.example/".__add__)


@given(_URLS, _TEXT, st.sampled_from(sorted(LOCATIONS)), st.sampled_from(PROTOCOLS))
def test_what_is_sent_is_what_is_read(url: str, reference: str, location: str, protocols: tuple[Protocol, ...]) -> None:
    contact = {"url": url, "tel": "+12015550100", "email": "a.b@r.example", "id": reference}
    answer = network_blocked(**contact, location=location, protocols=protocols)
    received = parse(build_answer(REQUEST, answer, to_tag="t"))
    notice = read_block_reason(received)
    escaped = url.replace(";", "%3B").replace('"', "%22").replace("\\", "%5C")
    assert notice == BlockNotice(escaped, "+12015550100", "a.b@r.example", reference, location, protocols[0])
    assert received.defects == ()


@given(st.binary(max_size=80))
def test_any_reason_is_read_without_failing(value: bytes) -> None:
    assert parse_reason(value) is not None
    read_block_notice(603, b"Network Blocked", [value, b'SIP;cause=603;text="' + value])
