"""Why a handshake fails, in words."""

from pathlib import Path

import pytest

from agent.control.handshake import NONE, clock_fault, fault_of, span
from tests.controller.agents import free_port
from tests.fakes.certificates import Authority

HOUR = 3600.0
NOON = 1_800_000_000.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1.0, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (3600.0, "1 h"), (6900.0, "1 h 55 min"), (90_000.0, "1 d 1 h")],
)
def test_a_span_is_told_in_two_units(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_a_certificate_that_is_not_yet_valid_shows_how_far_behind_this_host_is() -> None:
    said = clock_fault(NOON, NOON + HOUR, NOON - 2 * HOUR, "certificate is not yet valid")
    assert said.endswith("certificate is not yet valid; this host's clock is at least 2 h behind the controller's")


def test_a_certificate_that_has_ended_may_be_this_hosts_clock() -> None:
    said = clock_fault(NOON - HOUR, NOON, NOON + HOUR, "certificate has expired")
    assert "ended 1 h ago by this host's clock, which is ahead of the controller's, unless" in said


def test_a_certificate_of_an_issuer_that_has_ended_is_told_as_tls_says_it() -> None:
    assert "certificate has expired by this host's clock" in clock_fault(
        NOON - HOUR, NOON + HOUR, NOON, "certificate has expired"
    )


def test_where_nobody_listens_the_handshake_is_not_what_is_wrong(tmp_path: Path) -> None:
    authority = Authority()
    made = authority.sign(uris=("spiffe://sbc-edge/agent/a",))
    identity = tmp_path / "identity.pem"
    identity.write_bytes(made.key + made.certificate)
    assert fault_of(f"127.0.0.1:{free_port()}", identity, authority.certificate, NOON) == NONE
    assert fault_of("127.0.0.1:1", tmp_path / "none.pem", authority.certificate, NOON) == NONE
