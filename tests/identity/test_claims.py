"""The claims of every PASSporT type, strict and lenient; the short way reads what the long way reads."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.claims import SUPPORTED, Claims, is_uuid, read_claims, read_plain_shaken
from agent.model import ParseError
from tests.identity.tokens import CALLED, CALLING, CLAIMS, IAT, ORIGID, compact

BASE: dict[str, Any] = {"dest": {"tn": [CALLED]}, "iat": IAT, "orig": {"tn": CALLING}}
DIV = {**BASE, "div": {"tn": "13035550198"}}
RPH = {**BASE, "rph": {"auth": ["ets.0"]}}
CALLBACK = {**BASE, "rph": {"auth": ["ESNET.1"]}, "sph": "psap-callback"}
RCD = {**BASE, "rcd": {"nam": ""}}


def test_claims_of_shaken() -> None:
    assert read_claims("shaken", CLAIMS) == Claims(IAT, CALLING, (CALLED,), (), "B", ORIGID)


def test_claims_of_div_name_the_number_called_before() -> None:
    assert read_claims("div", DIV) == Claims(IAT, CALLING, (CALLED,), div="13035550198")


def test_claims_of_rph_and_of_a_call_back_from_an_emergency_service() -> None:
    assert read_claims("rph", RPH) == Claims(IAT, CALLING, (CALLED,))
    assert read_claims("rph", CALLBACK).psap_callback


def test_claims_of_rcd() -> None:
    assert read_claims("rcd", RCD) == Claims(IAT, CALLING, (CALLED,))
    card = {**BASE, "rcd": {"nam": "x", "icn": "https://a.example/i.png", "jcd": ["vcard", []]}}
    assert read_claims("rcd", card) == Claims(IAT, CALLING, (CALLED,))


def test_uris_may_stand_beside_and_in_place_of_numbers() -> None:
    payload = {"dest": {"tn": ["1", "2"], "uri": ["sip:a@b.example"]}, "iat": 0, "orig": {"uri": "sip:c@d.example"}}
    assert read_claims("rcd", {**payload, "rcd": {"nam": "x"}}) == Claims(0, "", ("1", "2"), ("sip:a@b.example",))


def test_emergency_call_may_have_the_service_as_its_dest() -> None:
    payload = {**CLAIMS, "dest": {"uri": ["urn:service:sos"]}}
    assert read_claims("shaken", payload).dest_uris == ("urn:service:sos",)


def test_dialled_codes_are_canonical_numbers() -> None:
    assert read_claims("shaken", {**CLAIMS, "dest": {"tn": ["*67#", "911"]}}).dest == ("*67#", "911")


def reason(ppt: str, payload: dict[str, Any], *, lenient: bool = False) -> str:
    with pytest.raises(ParseError) as caught:
        read_claims(ppt, payload, lenient=lenient)
    assert caught.value.place == "PASSporT payload"
    return caught.value.reason


@pytest.mark.parametrize(
    ("claim", "value", "said"),
    [
        ("iat", None, "iat is absent"),
        ("iat", True, "iat: not a whole number"),
        ("iat", 1.0, "iat: not a whole number"),
        ("iat", -1, "iat: not a whole number"),
        ("iat", 2**53, "iat: not a whole number"),
        ("iat", [], "iat: not a whole number"),
        ("orig", None, "orig is absent"),
        ("orig", "12015550123", "orig: not an object"),
        ("orig", {}, "not exactly one"),
        ("orig", {"tn": "1", "uri": "sip:a@b"}, "not exactly one"),
        ("orig", {"tn": ["12015550123"]}, "orig.tn: not a canonical"),
        ("orig", {"tn": ""}, "orig.tn: not a canonical"),
        ("orig", {"tn": "Bob"}, "orig.tn: not a canonical"),
        ("orig", {"tn": "1" * 33}, "orig.tn: not a canonical"),
        ("orig", {"tn": "١٢٣"}, "orig.tn: not a canonical"),
        ("orig", {"tn": "12015550123\n"}, "orig.tn: not a canonical"),
        ("orig", {"tn": None}, "orig.tn is absent"),
        ("orig", {"uri": 5}, "not exactly one"),
        ("orig", {"uri": "sip:a@b.example"}, "orig: no telephone number"),
        ("dest", None, "dest is absent"),
        ("dest", [], "dest: not an object"),
        ("dest", {}, "dest: neither"),
        ("dest", {"tn": []}, "dest: neither"),
        ("dest", {"tn": [1]}, "dest.tn: not an array of strings"),
        ("dest", {"tn": ["x"]}, "dest.tn: not a canonical"),
        ("dest", {"uri": [None]}, "dest.uri: not an array of strings"),
        ("attest", None, "attest is absent"),
        ("attest", "W", "attest: not A, B or C"),
        ("attest", "a", "attest: not A, B or C"),
        ("attest", "", "attest: not A, B or C"),
        ("attest", ["A"], "attest: not A, B or C"),
        ("attest", {}, "attest: not A, B or C"),
        ("origid", None, "origid is absent"),
        ("origid", "", "origid: not 1 to 128"),
        ("origid", "x" * 129, "origid: not 1 to 128"),
        ("origid", "a b", "origid: not 1 to 128"),
        ("origid", "\x1b[2J", "origid: not 1 to 128"),
        ("origid", 7, "origid: not 1 to 128"),
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_wrong_claim_of_shaken_is_refused_by_name_in_both_modes(
    claim: str, value: object, said: str, lenient: bool
) -> None:
    payload = {**CLAIMS, claim: value}
    if value is None:
        del payload[claim]
    assert said in reason("shaken", payload, lenient=lenient)


@pytest.mark.parametrize(
    ("payload", "read"),
    [
        ({**CLAIMS, "iat": "1443208345"}, Claims(1443208345, CALLING, (CALLED,), (), "B", ORIGID)),
        ({**CLAIMS, "dest": {"tn": CALLED}}, Claims(IAT, CALLING, (CALLED,), (), "B", ORIGID)),
        ({**CLAIMS, "orig": {"tn": "+1 (201) 555-0123"}}, Claims(IAT, CALLING, (CALLED,), (), "B", ORIGID)),
        ({**CLAIMS, "dest": {"tn": ["+1-303-555-0199"]}}, Claims(IAT, CALLING, (CALLED,), (), "B", ORIGID)),
    ],
)
def test_what_the_examples_of_rfcs_and_known_gear_send_is_for_lenient_only(
    payload: dict[str, Any], read: Claims
) -> None:
    assert read_claims("shaken", payload, lenient=True) == read
    assert reason("shaken", payload)


@pytest.mark.parametrize("iat", ["", "x", "-1", "1.5", "9" * 16, "١٢", " 5"])
def test_lenient_iat_is_still_digits(iat: str) -> None:
    assert "iat" in reason("shaken", {**CLAIMS, "iat": iat}, lenient=True)


@pytest.mark.parametrize(
    ("ppt", "payload", "said"),
    [
        ("div", BASE, "div is absent"),
        ("div", {**DIV, "div": {"tn": ["1"]}}, "div.tn: not a canonical"),
        ("div", {**DIV, "div": {}}, "div: not exactly one"),
        ("div", {**DIV, "opt": "a.b.c"}, "opt: not allowed"),
        ("rph", BASE, "rph is absent"),
        ("rph", {**BASE, "rph": {}}, "rph: not an object"),
        ("rph", {**BASE, "rph": ["esnet.1"]}, "rph: not an object"),
        ("rph", {**BASE, "rph": {"auth": "esnet.1"}}, "rph: not an array"),
        ("rph", {**RPH, "sph": "psap-callback"}, "sph: not beside an rph of the esnet"),
        ("rph", {**CALLBACK, "sph": "other"}, "sph: not psap-callback"),
        ("rph", {**CALLBACK, "sph": True}, "sph: not psap-callback"),
        ("rcd", BASE, "rcd is absent"),
        ("rcd", {**BASE, "rcd": {}}, "rcd.nam is absent"),
        ("rcd", {**BASE, "rcd": {"nam": 1}}, "rcd.nam: not a string"),
        ("rcd", {**BASE, "rcd": {"nam": "x", "icn": 1}}, "rcd.icn: not a string"),
        ("rcd", {**BASE, "rcd": {"nam": "x", "jcd": [], "jcl": "https://a.example/"}}, "both jcd and jcl"),
        ("rcd", {**BASE, "rcd": {"nam": "x", "jcd": {}}}, "rcd.jcd: not a jCard"),
    ],
)
def test_wrong_claim_of_another_type_is_refused_by_name(ppt: str, payload: dict[str, Any], said: str) -> None:
    assert said in reason(ppt, payload)


def test_origid_that_is_no_uuid_is_read_and_known() -> None:
    assert read_claims("shaken", {**CLAIMS, "origid": "toto"}).origid == "toto"
    assert is_uuid(ORIGID)
    assert is_uuid(ORIGID.upper())
    assert not is_uuid("toto")
    assert not is_uuid(ORIGID + "0")


near_numbers = st.text("0123456789*#+", max_size=34) | st.just(CALLED)
near_payloads = st.fixed_dictionaries(
    {
        "attest": st.sampled_from(["A", "B", "C", "D", ""]),
        "dest": st.fixed_dictionaries({"tn": st.lists(near_numbers, max_size=2)}),
        "iat": st.integers(-1, 10**17),
        "orig": st.fixed_dictionaries({"tn": near_numbers}),
        "origid": st.text(st.characters(max_codepoint=300), max_size=130) | st.just(ORIGID),
    }
)


@given(near_payloads)
def test_short_way_reads_what_the_long_way_reads(payload: dict[str, Any]) -> None:
    short = read_plain_shaken(compact(payload).decode("latin-1"))
    if short is not None:
        assert short == read_claims("shaken", payload)
        assert short == read_claims("shaken", payload, lenient=True)


def test_short_way_is_taken_for_what_signers_emit() -> None:
    assert read_plain_shaken(compact(CLAIMS).decode()) == read_claims("shaken", CLAIMS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("psap-callback"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["tn", "uri", "nam", "auth"]), inner),
    max_leaves=6,
)
names = st.sampled_from(["iat", "orig", "dest", "attest", "origid", "div", "opt", "rph", "sph", "rcd", "x"])


@given(st.sampled_from(sorted(SUPPORTED)), st.dictionaries(names, json_values), st.booleans())
def test_arbitrary_claims_raise_nothing_but_parse_error(ppt: str, changes: dict[str, Any], lenient: bool) -> None:
    for payload in (changes, {**CALLBACK, **RCD, **DIV, **CLAIMS, **changes}):
        with suppress(ParseError):
            read = read_claims(ppt, payload, lenient=lenient)
            assert all(number.isascii() for number in (read.orig, read.div, *read.dest))
