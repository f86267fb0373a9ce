"""The fast encoding of a record says exactly what the plain one says."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.model import Failure, RowCheck, Verification
from agent.model import ALLOW, Category, Verdict
from agent.records.rows import RowEncoder, plain_row
from agent.screening import Decision, Screening
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.benchmarks.messages import invite as long_invite
from tests.fakes.calls import invite, observe, policy
from tests.records.decisions import REFUSAL, allowed, refused


def plain(decision: Decision) -> object:
    """What JSON makes of the record."""
    return json.loads(json.dumps(decision.record().as_dict()))


def test_an_allowed_call_with_identity_and_an_asserted_number() -> None:
    message = pb.Policy(trunks=[pb.Trunk(id="peer", sources=["192.0.2.10"], trust_asserted_identity=True)])
    decision = Screening(policy(message)).handle(observe(long_invite()), 1.0)
    assert decision is not None
    row = json.loads(RowEncoder().row(decision))
    assert row == plain(decision)
    assert row["identity"][0]["attestation"] == "A"
    assert row["asserted"]


def test_a_refused_call_with_shadow_refusals_and_notes() -> None:
    decision = refused()
    decision.shadow = (REFUSAL, Verdict(ALLOW, "limits", Category.LIMIT, 'why "so"\n'))
    decision.attempt.notes = ("a note", "and \\ another\x00")
    assert json.loads(RowEncoder().row(decision)) == plain(decision)


@pytest.mark.parametrize("failure", [None, Failure.MISMATCH])
def test_a_call_with_a_verification_tells_all_of_it(failure: Failure | None) -> None:
    decision = allowed()
    row = RowCheck("shaken", "https://certs.example.net/a.pem", failure, 'why "so"')
    decision.attempt.identity = Verification(failure, "words", "A", "818H", "an origid", (row,))
    written = json.loads(RowEncoder().row(decision))
    assert written == plain(decision)
    assert written["verification"]["failure"] == (failure or "")
    assert written["verification"]["signer"] == "818H"


def test_one_encoder_tells_neighbours_apart() -> None:
    encoder = RowEncoder()
    decisions = [allowed("a"), refused("b"), allowed("c")]
    decisions[1].policy = replace(decisions[1].policy, generation=7)
    assert [json.loads(encoder.row(d)) for d in decisions] == [plain(d) for d in decisions]


@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=5))
def test_times_are_those_of_the_plain_record(times: list[float]) -> None:
    encoder = RowEncoder()
    decision = allowed()
    for when in times:
        decision.attempt.when = when
        assert json.loads(encoder.row(decision))["time"] == decision.record().time


@pytest.mark.parametrize("when", [-1.0, -0.25, 0.0, 1.9999996, 1_799_999_999.9999999, 1e11, 1e300])
def test_odd_times_are_those_of_the_plain_record(when: float) -> None:
    encoder = RowEncoder()
    for decision in (allowed(when=1.5), allowed()):
        decision.attempt.when = when
        assert json.loads(encoder.row(decision))["time"] == decision.record().time


@given(st.binary(min_size=1, max_size=60).filter(lambda b: not set(b) & set(b"\r\n \t")))
def test_any_call_id_from_the_wire_makes_one_line_of_json(call_id: bytes) -> None:
    raw = invite(call_id="CALLID").replace(b"CALLID", call_id)
    decision = Screening(policy()).handle(observe(raw), 1.0)
    assert decision is not None
    row = RowEncoder().row(decision)
    assert b"\n" not in row
    assert json.loads(row) == plain(decision)


def test_text_that_utf8_cannot_hold_still_makes_a_line() -> None:
    assert json.loads(plain_row({"why": "\udc80\n"})) == {"why": "\udc80\n"}
