"""verstat goes where the standard puts it, and what came from outside goes away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.model import Verstat
from agent.identity.verstat import asserted_rows, marked, marked_uri
from agent.sip.address import parse_address
from tests.fakes.calls import invite


@pytest.mark.parametrize(
    ("came", "goes"),
    [
        (b"<sip:+1201@a.example;user=phone>", b"<sip:+1201;verstat=TN-Validation-Failed@a.example;user=phone>"),
        (b"sip:+12015550123@a.example", b"<sip:+12015550123;verstat=TN-Validation-Failed@a.example>"),
        (b"<tel:+12015550123>", b"<tel:+12015550123;verstat=TN-Validation-Failed>"),
        (b'"Bo <sip:x@y>" <sip:1@a.example>;x=1', b'"Bo <sip:x@y>" <sip:1;verstat=TN-Validation-Failed@a.example>;x=1'),
        (b"<sip:+1;npdi;rn=+2@a.example>", b"<sip:+1;npdi;rn=+2;verstat=TN-Validation-Failed@a.example>"),
        (b"<sip:u:secret@a.example>", b"<sip:u;verstat=TN-Validation-Failed:secret@a.example>"),
        (b"<sip:a.example>", b"<sip:a.example>"),
    ],
)  # fmt: skip
def test_the_status_stands_behind_the_number(came: bytes, goes: bytes) -> None:
    assert marked(came, Verstat.FAILED) == goes


@pytest.mark.parametrize(
    "came",
    [
        b"<sip:+12015550123;verstat=TN-Validation-Passed@a.example>",
        b"<sip:+12015550123@a.example;verstat=TN-Validation-Passed>",
        b"<sip:+12015550123;VerStat=TN-Validation-Passed-A;npdi@a.example;verstat>",
        b"<tel:+12015550123;verstat=TN-Validation-Passed>",
    ],
)
def test_a_caller_who_says_so_himself_is_not_believed(came: bytes) -> None:
    goes = marked(came, Verstat.NONE).lower()
    assert goes.count(b"verstat") == 1
    assert b"verstat=no-tn-validation" in goes


def test_every_asserted_identity_is_marked_in_a_row_of_its_own() -> None:
    two = "P-Asserted-Identity: <sip:+12015550123@a.example>, <tel:+12015550123>"
    assert asserted_rows(invite(headers=(two,)), Verstat.PASSED) == (
        b"<sip:+12015550123;verstat=TN-Validation-Passed@a.example>",
        b"<tel:+12015550123;verstat=TN-Validation-Passed>",
    )


@given(st.binary(max_size=80))
def test_any_bytes_can_be_marked(uri: bytes) -> None:
    assert len(marked_uri(uri, Verstat.PASSED)) <= len(uri) + 30
    marked(uri, Verstat.PASSED)


@given(
    st.from_regex(
        r"sip:\+1[0-9]{10}(;[a-z]{1,9}(=[a-zA-Z0-9-]{1,20})?){0,4}@a\.example(;[a-z]{1,9}){0,3}", fullmatch=True
    )
)
def test_a_marked_address_is_read_again_and_says_it_once(uri: str) -> None:
    address = parse_address(marked(f"<{uri}>".encode(), Verstat.PASSED))
    stated = [param.value for param in address.parsed_uri().user_params if param.name == b"verstat"]
    assert stated == [b"TN-Validation-Passed"]
