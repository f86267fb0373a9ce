"""What the Identity rows of a call are worth: the vector and its mutations, the clock, credentials, several rows."""

from collections.abc import Mapping
from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.jws import der_signature
from agent.identity.model import NOT_SIGNED, RESPONSES, Credential, Failure, SignalledCall, Unreachable
from tests.identity.tokens import (
    CALL,
    CALLED,
    CALLING,
    CLAIMS,
    HEADER,
    IAT,
    KEY,
    ORIGID,
    OTHER_KEY,
    PARAMETERS,
    URL,
    VECTOR,
    VECTOR_KEY,
    VECTOR_TOKEN,
    WHEN,
    base64url,
    compact,
    credential,
    div,
    judged,
    raw_signature,
    rcd,
    row,
    rph,
    shaken,
    sign_parts,
    token,
    verifier,
)

assert isinstance(VECTOR_KEY, EllipticCurvePublicKey)
VECTOR_CREDENTIAL = credential(public_key=VECTOR_KEY)
HEAD, BODY, SIGNATURE = VECTOR_TOKEN.split(b".")


def test_constructed_vector_verifies() -> None:
    found = judged(VECTOR, found=VECTOR_CREDENTIAL)
    assert found.valid
    assert (found.attestation, found.spc, found.origid) == ("B", "1234", ORIGID)
    assert found.why == "attested B by 1234"
    assert [(check.ppt, check.url, check.failure, check.spc) for check in found.rows] == [("shaken", URL, None, "1234")]


def x5u(url: str) -> bytes:
    return row(x5u=url)


def flipped(raw: bytes, at: int) -> bytes:
    """Another character of the alphabet in its place."""
    return raw[:at] + (b"A" if raw[at : at + 1] != b"A" else b"B") + raw[at + 1 :]


@pytest.mark.parametrize(
    ("value", "failure", "why"),
    [
        (HEAD + b"." + flipped(BODY, 30) + b"." + SIGNATURE + PARAMETERS, Failure.INVALID, ""),
        (HEAD + b"." + BODY + b"." + flipped(SIGNATURE, 40) + PARAMETERS, Failure.INVALID, "signature is not that of"),
        (HEAD + b"." + BODY + b"." + SIGNATURE[:-1] + b"x" + PARAMETERS, Failure.INVALID, "bits after its end"),
        (VECTOR_TOKEN + b"==" + PARAMETERS, Failure.INVALID, "padding"),
        (HEAD + b"==." + BODY + b"." + SIGNATURE + PARAMETERS, Failure.INVALID, "padding"),
        (VECTOR.replace(b";ppt", b";ppt=shaken;ppt"), Failure.INVALID, "comes twice"),
        (VECTOR.replace(b"sti/1234", b"sti/1235"), Failure.INFO, "info differs from x5u"),
        (VECTOR.replace(b"https", b"HTTPS"), Failure.INFO, "info differs from x5u"),
        (VECTOR_TOKEN + b";alg=ES256;ppt=shaken", Failure.INFO, "no info"),
        (VECTOR_TOKEN + b";info=<>;alg=ES256;ppt=shaken", Failure.INFO, "no info"),
        (VECTOR.replace(b"ES256", b"ES384"), Failure.INVALID, "alg is not ES256"),
        (VECTOR.replace(b"ppt=shaken", b"ppt=div"), Failure.MISSING, "only div"),
        (b".." + SIGNATURE + PARAMETERS, Failure.INVALID, "compact form"),
        (b"", Failure.INVALID, "empty"),
        (x5u("http://certs.example.net/1234.pem"), Failure.INFO, "not https"),
        (x5u("https://certs.example.net:8080/1234.pem"), Failure.INFO, "port 8080"),
        (x5u("https://certs.example.net/1234.pem?a=b"), Failure.INFO, "query"),
        (x5u("https://certs.example.net/1234.pem#a"), Failure.INFO, "fragment"),
        (x5u("https://user@certs.example.net/1234.pem"), Failure.INFO, "user information"),
    ],
)
def test_mutation_is_refused_for_its_reason(value: bytes, failure: Failure, why: str) -> None:
    found = judged(value, found=VECTOR_CREDENTIAL)
    assert (found.failure, why in found.why) == (failure, True), found.why


def test_der_signature_is_refused_as_such() -> None:
    signed = HEAD + b"." + BODY
    der = signed + b"." + base64url(der_signature(raw_signature(KEY, signed))) + PARAMETERS
    found = judged(der)
    assert found.failure is Failure.INVALID
    assert "DER" in found.why


def test_duplicate_json_key_is_refused_although_the_signature_is_good() -> None:
    payload = compact(CLAIMS).replace(b'"iat"', b'"attest":"A","iat"')
    found = judged(sign_parts(compact(HEADER), payload) + PARAMETERS)
    assert found.failure is Failure.INVALID
    assert "the same key twice" in found.why


def test_certificate_on_an_address_that_is_no_host_name_is_a_matter_of_fetching() -> None:
    local = verifier().read([x5u("https://127.0.0.1/1234.pem")])
    assert local.urls == ("https://127.0.0.1/1234.pem",)  # whoever connects refuses the address
    found = judged(x5u("https://127.0.0.1/1234.pem"), found=Unreachable("127.0.0.1 is a loopback address"))
    assert (found.failure, found.why) == (Failure.UNREACHABLE, "127.0.0.1 is a loopback address")


@pytest.mark.parametrize(
    ("when", "fresh"),
    [(60, True), (61, False), (60.5, False), (-60, True), (-61, False), (0, True), (nan, False), (inf, False)],
)
def test_iat_is_held_to_the_freshness_both_ways(when: float, fresh: bool) -> None:
    found = judged(shaken(), when=IAT + when)
    assert found.failure is (None if fresh else Failure.STALE)
    assert found.why.startswith("attested" if fresh else "iat")


def test_freshness_is_a_setting() -> None:
    assert judged(shaken(), when=IAT + 299, by=verifier(300)).valid
    assert judged(shaken(), when=IAT + 301, by=verifier(300)).failure is Failure.STALE
    assert judged(shaken(), when=IAT + 16, by=verifier(15)).why == "iat is 16 s old, more than 15 s"


@pytest.mark.parametrize(
    ("date", "fresh"), [(0, True), (-60, True), (-61, False), (60, True), (61, False), (nan, False)]
)
def test_date_is_held_to_the_same_where_there_is_one(date: float, fresh: bool) -> None:
    call = replace(CALL, date=WHEN + date)
    found = judged(shaken(), call=call)
    assert found.failure is (None if fresh else Failure.STALE)
    assert judged(shaken(), call=call, lenient=True).valid  # RFC 8224 6.2 step 4: iat is fresh
    assert "Date" in found.why or fresh


@pytest.mark.parametrize(
    ("found", "failure", "why"),
    [
        (Unreachable("404 Not Found"), Failure.UNREACHABLE, "404 Not Found"),
        (credential(fault="not issued by anyone we trust"), Failure.CREDENTIAL, "not issued by anyone we trust"),
        (credential(public_key=None), Failure.CREDENTIAL, "no key"),
        (credential(not_after=WHEN - 1), Failure.CREDENTIAL, "expired at 2026-10-14 14:15:04 UTC"),
        (credential(not_before=WHEN + 1), Failure.CREDENTIAL, "not valid before 2026-10-14 14:15:06 UTC"),
        (credential(not_before=float(IAT + 1)), Failure.CREDENTIAL, "iat is outside the validity"),
        (credential(not_after=-inf), Failure.CREDENTIAL, "expired at -inf"),
        (
            credential(public_key=OTHER_KEY.public_key()),
            Failure.INVALID,
            "the signature is not that of the certificate",
        ),
        (credential(mandatory=("rcd",)), Failure.CREDENTIAL, 'demands the claim "rcd"'),
        (credential(excluded=("attest",)), Failure.CREDENTIAL, 'forbids the claim "attest"'),
        (credential(permitted=(("attest", ("A",)),)), Failure.CREDENTIAL, 'value of the claim "attest"'),
        (credential(permitted=(("orig", ('{"tn":"1"}',)),)), Failure.CREDENTIAL, 'value of the claim "orig"'),
        (credential(permitted=(("iat", ("1",)),)), Failure.CREDENTIAL, 'value of the claim "iat"'),
        (credential(permitted=(("attest", ("A", "B")), ("attest", ("A",)))), Failure.CREDENTIAL, '"attest"'),
    ],
)
def test_credential_that_is_not_one_to_rely_on(found: Credential | Unreachable, failure: Failure, why: str) -> None:
    verification = judged(shaken(), found=found)
    assert verification.failure is failure
    assert why in verification.why
    assert (verification.attestation, verification.origid) == ("B", ORIGID)  # as stated


@pytest.mark.parametrize(
    "constraints",
    [
        {"not_before": float(IAT), "not_after": WHEN},
        {"mandatory": ("attest", "origid", "iat")},
        {"excluded": ("rcd", "div")},
        {"permitted": (("attest", ("A", "B")), ("rcd", ("x",)))},
        {"permitted": (("orig", ('{"tn":"12015550123"}',)), ("iat", (str(IAT),)))},
    ],
)
def test_credential_whose_bounds_are_kept_is_relied_on(constraints: Mapping[str, Any]) -> None:
    assert judged(shaken(), found=credential(**constraints)).valid


def test_certificate_that_nobody_looked_for_is_unreachable() -> None:
    by = verifier()
    found = by.judge(by.read([shaken()]), {}, CALL, WHEN)
    assert (found.failure, found.why) == (Failure.UNREACHABLE, "the certificate was not fetched")


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (replace(CALL, calling=("12015550124",)), "orig is 12015550123, the call is from 12015550124"),
        (replace(CALL, calling=()), "the call is from no number"),
        (replace(CALL, calling=("",)), "the call is from no number"),
        (replace(CALL, called="13035550198", to="13035550197"), "the call is to 13035550198 or 13035550197"),
        (replace(CALL, called="", to=""), "dest is 13035550199, the call is to no number"),
    ],
)
def test_good_token_of_another_call_is_a_mismatch(call: SignalledCall, why: str) -> None:
    found = judged(shaken(), call=call)
    assert found.failure is Failure.MISMATCH
    assert why in found.why


@pytest.mark.parametrize(
    "call",
    [
        replace(CALL, calling=("19995550100", CALLING)),
        replace(CALL, to=""),
        replace(CALL, called="13035550142"),  # retargeted without a div: To is still what was called
    ],
)
def test_one_of_several_numbers_is_enough(call: SignalledCall) -> None:
    assert judged(shaken(), call=call).valid


def test_dest_may_hold_several_numbers() -> None:
    assert judged(shaken(dest={"tn": ["13035550142", CALLED]})).valid


def test_call_to_the_emergency_service_itself() -> None:
    sos = shaken(dest={"uri": ["urn:service:sos"]})
    assert judged(sos, call=replace(CALL, called="911", to="")).valid
    assert judged(sos).failure is Failure.MISMATCH


def test_no_identity_is_missing() -> None:
    assert judged() is NOT_SIGNED
    assert verifier().read([]).urls == ()


def test_unknown_type_is_ignored_and_listed() -> None:
    found = judged(row(ppt="msec"))
    assert found.failure is Failure.MISSING
    assert found.why == "no PASSporT of type shaken, only msec"
    assert [check.failure for check in found.rows] == [Failure.MISSING]
    assert judged(row(ppt="msec"), shaken()).valid


def test_row_that_says_nothing_of_its_type_counts_as_one_that_was_meant() -> None:
    assert judged(b"garbage").failure is Failure.INVALID
    assert judged(b"garbage;ppt=rcd").failure is Failure.MISSING


def test_two_rows_of_which_one_is_good_suffice_in_any_order() -> None:
    bad = shaken(orig={"tn": "12015550199"})
    for values in ([bad, shaken()], [shaken(), bad], [bad + b"," + shaken()]):
        found = judged(*values)
        assert found.valid
        assert sorted(str(check.failure) for check in found.rows) == ["None", "mismatch"]


def test_quoted_ppt_and_comma_joined_rows_are_read() -> None:
    assert judged(token() + PARAMETERS.replace(b"shaken", b'"shaken"')).valid
    assert len(judged(shaken() + b", " + rcd()).rows) == 2


def test_failure_is_that_of_the_row_that_got_furthest() -> None:
    rows = [
        row(ppt="msec"),
        b"garbage" + PARAMETERS,
        VECTOR_TOKEN + b";alg=ES256;ppt=shaken",
        shaken(iat=IAT - 600),
        row(CLAIMS, OTHER_KEY),
        shaken(orig={"tn": "12015550199"}),
    ]
    failures = [Failure.MISSING, Failure.INVALID, Failure.INFO, Failure.STALE, Failure.INVALID, Failure.MISMATCH]
    for n in range(1, len(rows) + 1):
        for values in (rows[:n], rows[:n][::-1]):
            assert judged(*values).failure is failures[n - 1]


def test_of_two_good_rows_the_higher_attestation_speaks() -> None:
    for values in ([shaken(attest="C"), shaken(attest="A")], [shaken(attest="A"), shaken(attest="C")]):
        assert judged(*values).attestation == "A"


def test_each_url_is_named_once() -> None:
    other = "https://certs.example.org/a.pem"
    assert verifier().read([shaken(), rcd(), row(x5u=other), b"junk"]).urls == (URL, other)


def test_strict_wants_exactly_the_parameters_of_shaken() -> None:
    without_alg = token() + f";info=<{URL}>;ppt=shaken".encode()
    without_ppt = token() + f";info=<{URL}>;alg=ES256".encode()
    extended = token() + PARAMETERS + b";toto=titi"
    for value, why in ((without_alg, "no alg"), (without_ppt, "no ppt"), (extended, 'parameter "toto"')):
        found = judged(value)
        assert found.failure is Failure.INVALID
        assert why in found.why
        assert judged(value, lenient=True).valid


def test_lenient_reads_the_type_of_the_token_where_the_row_names_none() -> None:
    assert judged(rcd().replace(b";ppt=rcd", b""), lenient=True).failure is Failure.MISSING


def test_lenient_takes_claims_that_strict_refuses() -> None:
    value = shaken(iat=str(IAT), dest={"tn": CALLED})
    assert judged(value).failure is Failure.INVALID
    assert judged(value, lenient=True).valid


def test_signature_is_computed_once_for_copies_of_a_call() -> None:
    by = verifier()
    for _ in range(3):
        assert judged(shaken_value, by=by).valid
    assert by.signatures == 1


shaken_value = shaken()


def test_long_tokens_are_verified_each_time_and_fill_no_memory() -> None:
    by = verifier()
    long = shaken(more="x" * 3000)
    for _ in range(2):
        assert judged(long, by=by).valid
    assert by.signatures == 2


def test_known_signature_vouches_for_no_other_claims_and_no_other_key() -> None:
    by = verifier()
    assert judged(shaken_value, by=by).valid
    signature = shaken_value.partition(b";")[0].rpartition(b".")[2]
    forged = shaken(attest="A").partition(b";")[0].rpartition(b".")[0] + b"." + signature + PARAMETERS
    assert judged(forged, by=by).failure is Failure.INVALID
    other = credential(public_key=OTHER_KEY.public_key(), sha256="cd" * 32)
    assert judged(shaken_value, by=by, found=other).failure is Failure.INVALID
    assert judged(shaken_value, by=by).valid


def test_token_that_another_call_shows_is_a_replay() -> None:
    by = verifier()
    other = replace(CALL, call_id=b"another@192.0.2.66")
    assert judged(shaken_value, by=by).valid
    found = judged(shaken_value, by=by, call=other)
    assert (found.failure, found.attestation) == (Failure.REPLAYED, "B")
    assert judged(shaken_value, by=by).valid  # a retransmission of the first
    assert judged(shaken_value, by=by, call=replace(CALL, from_tag=b"x")).failure is Failure.REPLAYED


def test_replay_with_the_other_half_of_the_signature_is_still_one() -> None:
    by = verifier()
    assert judged(shaken_value, by=by).valid
    signed = token().rpartition(b".")[0]
    raw = raw_signature(KEY, signed)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    by = verifier()
    first = signed + b"." + base64url(raw) + PARAMETERS
    twin = signed + b"." + base64url(raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big"))
    assert judged(first, by=by).valid
    other = replace(CALL, call_id=b"another@192.0.2.66")
    assert judged(twin + PARAMETERS, call=other).valid  # it verifies
    assert judged(twin + PARAMETERS, by=by, call=other).failure is Failure.REPLAYED


def test_nobody_clears_a_replay_with_a_second_good_token() -> None:
    by = verifier()
    assert judged(shaken_value, by=by).valid
    fresh = shaken(attest="A")
    other = replace(CALL, call_id=b"another@192.0.2.66")
    assert judged(fresh, shaken_value, by=by, call=other).failure is Failure.REPLAYED


def test_bad_token_is_not_remembered_as_shown() -> None:
    by = verifier()
    other = replace(CALL, call_id=b"another@192.0.2.66", calling=("12015550199",))
    assert judged(shaken_value, by=by, call=other).failure is Failure.MISMATCH
    assert judged(shaken_value, by=by).valid


CALLBACK = replace(CALL, psap_callback=True)


def test_verified_rph_vouches_for_a_call_back_from_an_emergency_service() -> None:
    found = judged(shaken(), rph(sph="psap-callback"), call=CALLBACK)
    assert found.valid
    assert found.psap_callback
    alone = judged(rph(sph="psap-callback"), call=CALLBACK)
    assert (alone.failure, alone.psap_callback) == (Failure.MISSING, True)


@pytest.mark.parametrize(
    ("value", "call"),
    [
        (rph(sph="psap-callback"), CALL),  # Priority does not say so
        (rph(), CALLBACK),
        (rph(sph="psap-callback", orig={"tn": "12015550199"}), CALLBACK),
        (rph(sph="psap-callback", dest={"tn": ["12015550199"]}), CALLBACK),
        (rph(sph="psap-callback", iat=IAT - 600), CALLBACK),
        (rph(sph="psap-callback", rph={"auth": ["ets.1"]}), CALLBACK),
        (rph(sph="psap-callback").replace(b"ppt=rph", b"ppt=rcd"), CALLBACK),
        (flipped(rph(sph="psap-callback"), 300), CALLBACK),
        (shaken(sph="psap-callback"), CALLBACK),
    ],
)
def test_call_back_that_is_not_vouched_for(value: bytes, call: SignalledCall) -> None:
    assert not judged(shaken(), value, call=call).psap_callback


def test_replayed_rph_vouches_for_nothing() -> None:
    by = verifier()
    value = rph(sph="psap-callback")
    assert judged(value, call=CALLBACK, by=by).psap_callback
    assert not judged(value, call=replace(CALLBACK, call_id=b"other"), by=by).psap_callback


def test_old_rph_is_stale_even_beside_a_diversion() -> None:
    old = rph(sph="psap-callback", iat=IAT - 600)
    assert not judged(old, div(CALLED, "13035550142"), call=CALLBACK).psap_callback


def test_rcd_is_verified_and_listed_but_authenticates_nobody() -> None:
    found = judged(rcd())
    assert found.failure is Failure.MISSING
    assert [(check.ppt, check.failure) for check in found.rows] == [("rcd", None)]
    assert judged(row(CLAIMS, OTHER_KEY, ppt="rcd")).rows[0].failure is Failure.INVALID


def test_every_failure_has_its_response() -> None:
    assert set(RESPONSES) == set(Failure)


pieces = st.sampled_from([HEAD, BODY, SIGNATURE, b".", b";", PARAMETERS, b",", b"info=<", URL.encode(), b">", b"\r\n "])
rows_of_anything = st.lists(
    st.lists(st.binary(max_size=20) | pieces, max_size=8).map(b"".join)
    | st.sampled_from([VECTOR, shaken_value, rcd()]),
    max_size=6,
)


@given(rows_of_anything, st.booleans(), st.floats())
def test_arbitrary_rows_never_raise_and_prove_nothing(values: list[bytes], lenient: bool, when: float) -> None:
    found = judged(*values, when=when, lenient=lenient)
    assert found.valid is (found.failure is None)
    if not any(shaken_value.partition(b";")[0] in value for value in values):
        assert not found.valid
    assert found.why.isprintable()


@given(st.lists(st.integers(0, len(shaken_value) - 1), min_size=1, max_size=3), st.binary(min_size=1, max_size=1))
def test_no_changed_byte_of_the_token_is_accepted(places: list[int], byte: bytes) -> None:
    changed = bytearray(shaken_value)
    for place in places:
        changed[place : place + 1] = byte
    if bytes(changed).partition(b";")[0].strip(b" \t\r\n") != shaken_value.partition(b";")[0]:
        assert not judged(bytes(changed)).valid
