"""What a request must hold, how its faults are told, and what an answer looks like."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.model import Failure, Verification, Verstat
from agent.stir.api.documents import (
    BRACKETS_MAX,
    SigningOrder,
    VerificationOrder,
    read_signing,
    read_verification,
    signing_response,
    verification_response,
    verstat_of,
)
from agent.stir.api.faults import ApiError, Fault
from tests.stir.api.apis import IDENTITY, ORIGID, WHEN, as_bytes, signing, verification


def fault_of(reader: Any, body: bytes) -> tuple[str, ...]:
    """Message id and variables of the error that reading raises."""
    with pytest.raises(ApiError) as caught:
        reader(body)
    return (caught.value.fault.message_id, *caught.value.variables)


def test_a_verification_is_read() -> None:
    order = read_verification(as_bytes(verification()))
    assert order.values == (IDENTITY.encode(),)
    assert order.call.calling == ("12015550123",)
    assert order.call.called == order.call.to == "13035550199"
    assert order.call.date == WHEN
    assert (order.call.call_id, order.call.from_tag) == (b"", b"")


def test_a_signing_is_read() -> None:
    order = read_signing(as_bytes(signing(dest={"tn": ["13035550199", "+1 (303) 555-0142".replace(" ", "")]})))
    assert order == SigningOrder("B", "12015550123", ("13035550199", "13035550142"), int(WHEN), ORIGID)


@pytest.mark.parametrize("sent", ["+12015550123", "1-201-555-0123", "1.(201)555.0123", "12015550123"])
def test_separators_of_a_number_do_not_count(sent: str) -> None:
    assert read_verification(as_bytes(verification(**{"from": {"tn": sent}}))).call.calling == ("12015550123",)


def test_keys_are_read_in_any_case() -> None:
    document = {
        "SigningRequest": {
            "Attest": "C",
            "DEST": {"TN": ["13035550199"]},
            "iat": int(WHEN),
            "orig": {"Tn": "12015550123"},
            "origId": ORIGID,
        }
    }
    assert read_signing(as_bytes(document)).origid == ORIGID


def test_what_is_not_known_is_ignored() -> None:
    document = signing(ppt="shaken", vendor={"a": [1]})
    assert read_signing(as_bytes({**document, "other": 1})).attest == "B"


@pytest.mark.parametrize("value", [int(WHEN), str(int(WHEN))])
def test_a_time_may_be_a_number_or_digits(value: object) -> None:
    assert read_verification(as_bytes(verification(time=value))).call.date == WHEN


@pytest.mark.parametrize("value", [True, 1.5, "1_0", " 1", "١", -1, 10**12, "soon", [], {}, 1e300])
def test_what_is_no_time_is_refused(value: object) -> None:
    told = fault_of(read_verification, as_bytes(verification(time=value)))
    assert told == ("SVC4005", "time", "must be a number of seconds since the epoch")


@pytest.mark.parametrize("missing", ["from", "to", "time", "identity"])
def test_what_a_verification_lacks_is_named(missing: str) -> None:
    assert fault_of(read_verification, as_bytes(verification(**{missing: None}))) == ("SVC4001", missing)


@pytest.mark.parametrize("missing", ["attest", "dest", "iat", "orig", "origid"])
def test_what_a_signing_lacks_is_named(missing: str) -> None:
    assert fault_of(read_signing, as_bytes(signing(**{missing: None}))) == ("SVC4001", missing)


def test_null_and_the_empty_string_are_missing() -> None:
    body = json.dumps(verification()).replace(f'"{IDENTITY}"', "null").encode()
    assert fault_of(read_verification, body) == ("SVC4001", "identity")
    assert fault_of(read_verification, as_bytes(verification(identity=""))) == ("SVC4001", "identity")
    assert fault_of(read_verification, as_bytes(verification(to={}))) == ("SVC4001", "to.tn")


def test_the_other_request_is_missing_in_a_document() -> None:
    assert fault_of(read_signing, as_bytes(verification())) == ("SVC4001", "signingRequest")
    assert fault_of(read_verification, as_bytes(signing())) == ("SVC4001", "verificationRequest")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"attest": "D"}, "attest"),
        ({"attest": "a"}, "attest"),
        ({"attest": ["A"]}, "attest"),
        ({"origid": "not-a-uuid"}, "origid"),
        ({"origid": ORIGID + "0"}, "origid"),
        ({"origid": ORIGID + "\n"}, "origid"),
        ({"ppt": "div"}, "ppt"),
        ({"orig": {"tn": ["12015550123"]}}, "orig"),
        ({"orig": {"tn": "1201 5550123"}}, "orig"),
        ({"orig": {"tn": "sip:alice@example.com"}}, "orig"),
        ({"orig": {"tn": "+"}}, "orig"),
        ({"orig": {"tn": "1" * 65}}, "orig"),
        ({"orig": {"tn": "1" * 33}}, "orig"),
        ({"orig": {"tn": "١٢٣"}}, "orig"),
        ({"orig": "12015550123"}, "orig"),
        ({"dest": {"tn": "13035550199"}}, "dest"),
        ({"dest": {"tn": []}}, "dest"),
        ({"dest": {"tn": ["13035550199"] * 17}}, "dest"),
        ({"dest": {"tn": [13035550199]}}, "dest"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(changes: dict[str, Any], name: str) -> None:
    assert fault_of(read_signing, as_bytes(signing(**changes)))[:2] == ("SVC4005", name)


def test_a_call_goes_to_one_number() -> None:
    told = fault_of(read_verification, as_bytes(verification(to={"tn": ["13035550199", "13035550142"]})))
    assert told == ("SVC4005", "to", "tn must have one number")


def test_several_identity_rows_come_as_an_array() -> None:
    assert read_verification(as_bytes(verification(identity=[IDENTITY, "x"]))).values == (IDENTITY.encode(), b"x")


@pytest.mark.parametrize("value", ["a\r\nVia: b", "a\0", "é", 7, [], [""], ["x"] * 17, {"a": 1}])
def test_what_is_no_header_value_is_no_identity(value: object) -> None:
    assert fault_of(read_verification, as_bytes(verification(identity=value)))[:2] == ("SVC4005", "identity")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"x", "invalid JSON"),
        (b"{", "invalid JSON"),
        (b"[]", "not a JSON object"),
        (b"7", "not a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "invalid JSON"),
        (b'{"a":1,"a":1}', "a key comes twice"),
        (b'{"signingRequest":{"origid":"x","origId":"y"}}', "a key comes twice"),
        (b'{"a":NaN}', "NaN and Infinity are no JSON numbers"),
        (b'{"a":-Infinity}', "NaN and Infinity are no JSON numbers"),
        (b'{"a":' + b"9" * 5000 + b"}", "invalid JSON"),
        (b"[" * (BRACKETS_MAX + 1), "too many objects and arrays"),
        (b'{"a":' * 60_000, "too many objects and arrays"),
    ],
)
def test_a_body_that_is_no_such_document_cannot_be_parsed(body: bytes, why: str) -> None:
    assert fault_of(read_signing, body) == ("SVC4006", why)
    assert fault_of(read_verification, body) == ("SVC4006", why)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    for reader in (read_signing, read_verification):
        with pytest.raises(ApiError):
            reader(body)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("12015550123"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["tn", "uri", "TN"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["from", "to", "time", "identity", "attest", "iat"]), _VALUES))
def test_no_document_raises_anything_else(fields: dict[str, Any]) -> None:
    try:
        order = read_verification(as_bytes(verification(**fields)))
    except ApiError:
        return
    assert isinstance(order, VerificationOrder)
    assert all(digit in "0123456789*#" for number in order.call.calling for digit in number)


def test_a_passed_verification_has_a_verstat_and_no_reason() -> None:
    assert json.loads(verification_response(Verification(None, "good"), Verstat.PASSED)) == {
        "verificationResponse": {"verstat": "TN-Validation-Passed"}
    }


def test_a_failed_verification_has_a_reason_whose_code_is_a_number() -> None:
    result = Verification(Failure.CREDENTIAL, "expired on 2026-01-31")
    assert verification_response(result, verstat_of(result)) == (
        b'{"verificationResponse":{"reasoncode":437,"reasontext":"Unsupported Credential",'
        b'"reasondesc":"expired on 2026-01-31","verstat":"TN-Validation-Failed"}}'
    )


@pytest.mark.parametrize("failure", Failure)
def test_every_failure_has_its_verstat(failure: Failure) -> None:
    nothing_to_judge = {Failure.MISSING, Failure.UNREACHABLE, Failure.REPLAYED}
    expected = Verstat.NONE if failure in nothing_to_judge else Verstat.FAILED
    assert verstat_of(Verification(failure, "why")) is expected


def test_a_long_reason_is_cut() -> None:
    response = json.loads(verification_response(Verification(Failure.INVALID, "x" * 10_000), Verstat.FAILED))
    assert len(response["verificationResponse"]["reasondesc"]) == 256


def test_a_signing_response_has_the_value_of_the_header() -> None:
    assert json.loads(signing_response(IDENTITY)) == {"signingResponse": {"identity": IDENTITY}}


def test_an_error_keeps_its_text_apart_from_its_variables() -> None:
    assert json.loads(Fault.INVALID_PARAMETER.body("attest", "must be A, B or C")) == {
        "requestError": {
            "serviceException": {
                "messageId": "SVC4005",
                "text": "Invalid '%1' parameter value: %2",
                "variables": ["attest", "must be A, B or C"],
            }
        }
    }


def test_no_two_faults_are_one() -> None:
    assert len(Fault.__members__) == len(list(Fault)), "an Enum makes equal values aliases"
