"""The call record: what it states of an Identity, and of odd times."""

from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.records.record import rfc3339, stated_attestation


def row(payload: bytes) -> bytes:
    return (
        b"eyJ9." + urlsafe_b64encode(payload).rstrip(b"=") + b".c2ln;info=<https://certs.example.net/1.pem>;ppt=shaken"
    )


@pytest.mark.parametrize("attest", ["A", "B", "C"])
def test_the_stated_attestation_is_read_without_verifying(attest: str) -> None:
    assert stated_attestation(row(b'{"attest":"%b"}' % attest.encode())) == attest


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"[]", b'{"attest":"D"}', b'{"attest":["A"]}', b"\xff", b"[" * 3000, b'{"attest":1e999}']
)
def test_what_states_nothing_usable_is_empty(payload: bytes) -> None:
    assert stated_attestation(row(payload)) == ""


@given(st.binary(max_size=300))
def test_any_row_is_read_without_an_error(raw: bytes) -> None:
    assert stated_attestation(raw) in {"", "A", "B", "C"}


def test_a_time_that_no_calendar_has_is_shown_as_it_is() -> None:
    assert rfc3339(0.5) == "1970-01-01T00:00:00.500000Z"
    assert rfc3339(1e20) == "1e+20"
