"""What becomes of a call that nobody vouches for is decided by the policy's table, and by default it passes."""

import pytest

from agent.identity.model import NOT_SIGNED, Failure, RowCheck, Verification
from agent.model import ALLOW, Category, Refuse, Verdict
from agent.policy.document import from_toml
from agent.screening import Decision, Screening
from tests.fakes.calls import CALLER, PEER, invite, observe, policy

URL = "https://certs.example.net/1.pem"
NOW = 1_800_000_000.0
TRUNK = f"""
[[trunks]]
id = "peer"
sources = ["{PEER}"]
"""


def failed(failure: Failure, why: str = "signature does not verify") -> Verification:
    other = RowCheck("shaken", "https://certs.example.net/0.pem", Failure.MISMATCH, "another called number")
    return Verification(failure, why, rows=(other, RowCheck("shaken", URL, failure, why)))


def decided(rules: str, identity: Verification | None, calling: str = CALLER) -> Decision:
    screening = Screening(policy(from_toml(TRUNK + rules)))
    decision = screening.handle(observe(invite(calling=calling)), NOW, identity)
    assert decision is not None
    assert screening.failures == 0
    return decision


def refused(rules: str, identity: Verification) -> Verdict:
    verdict = decided(rules, identity).verdict
    assert isinstance(verdict.action, Refuse)
    assert (verdict.rule, verdict.category) == ("identity", Category.IDENTITY)
    return verdict


def answer_of(verdict: Verdict) -> str:
    assert isinstance(verdict.action, Refuse)
    return str(verdict.action.answer)


def row(failure: Failure, more: str = "") -> str:
    return f'[identity]\n[[identity.failures]]\nfailure = "{failure}"\naction = "refuse"\n{more}'


@pytest.mark.parametrize("failure", Failure)
def test_every_failure_passes_unless_the_table_says_otherwise(failure: Failure) -> None:
    assert decided("[identity]", failed(failure)).verdict.action is ALLOW


@pytest.mark.parametrize(
    ("failure", "answer"),
    [
        (Failure.MISSING, "428 Use Identity Header"),
        (Failure.STALE, "403 Stale Date"),
        (Failure.INFO, "436 Bad Identity Info"),
        (Failure.UNREACHABLE, "436 Bad Identity Info"),
        (Failure.CREDENTIAL, "437 Unsupported Credential"),
        (Failure.INVALID, "438 Invalid Identity Header"),
        (Failure.MISMATCH, "438 Invalid Identity Header"),
        (Failure.REPLAYED, "438 Invalid Identity Header"),
    ],
)
def test_a_row_refuses_its_failure_with_the_code_of_rfc_8224_and_no_other_failure(
    failure: Failure, answer: str
) -> None:
    assert answer_of(refused(row(failure), failed(failure))) == answer
    for other in set(Failure) - {failure}:
        assert decided(row(failure), failed(other)).verdict.action is ALLOW


def test_an_answer_of_ones_own_takes_its_own_phrase() -> None:
    assert answer_of(refused(row(Failure.INVALID, "answer = { code = 403 }"), failed(Failure.INVALID))) == (
        "403 Forbidden"
    )
    stale = row(Failure.STALE, 'answer = { code = 438, phrase = "Too Old" }')
    assert answer_of(refused(stale, failed(Failure.STALE))) == "438 Too Old"


def test_the_reason_names_the_failure_and_the_row_that_it_was_found_in() -> None:
    verdict = refused(row(Failure.INVALID), failed(Failure.INVALID))
    assert verdict.why == f"invalid: signature does not verify (row 2, x5u {URL})"
    assert refused(row(Failure.MISSING), NOT_SIGNED).why == "missing: no Identity header"


def test_a_url_of_any_length_does_not_make_a_reason_of_any_length() -> None:
    long = Verification(Failure.INFO, "x", rows=(RowCheck("shaken", "https://a/" + "b" * 9999, Failure.INFO, "x"),))
    assert len(refused(row(Failure.INFO), long).why) < 300


def test_a_verified_call_and_one_that_nobody_looked_at_pass_every_row() -> None:
    rules = "[identity]\n" + "".join(row(f).removeprefix("[identity]\n") for f in Failure)
    assert decided(rules, Verification(None, "", "A", "1234")).verdict.action is ALLOW
    assert decided(rules, None).verdict.action is ALLOW


def test_a_missing_identity_is_refused_on_a_trunk_that_must_bring_one() -> None:
    rules = '[identity]\nrequired_trunks = ["peer"]'
    assert answer_of(refused(rules, NOT_SIGNED)) == "428 Use Identity Header"
    assert decided(rules, failed(Failure.INVALID)).verdict.action is ALLOW
    assert decided('[identity]\nrequired_trunks = ["unknown"]', NOT_SIGNED).verdict.action is ALLOW


def test_the_tables_own_answer_for_missing_ones_holds_on_such_a_trunk_too() -> None:
    rules = '[identity]\nrequired_trunks = ["peer"]\n' + row(
        Failure.MISSING, 'answer = { phrase = "Use Supported PASSporT Format" }'
    ).removeprefix("[identity]\n")
    assert answer_of(refused(rules, NOT_SIGNED)) == "428 Use Supported PASSporT Format"


def test_what_is_on_an_allow_list_is_not_refused() -> None:
    listed = row(Failure.INVALID, '[identity.allow]\ncalling = ["2015550123"]')
    assert decided(listed, failed(Failure.INVALID)).verdict.action is ALLOW
    everywhere = row(Failure.INVALID, '[allow]\ntrunks = ["peer"]')
    assert decided(everywhere, failed(Failure.INVALID)).verdict.action is ALLOW


def test_in_shadow_mode_the_refusal_is_recorded_and_the_call_passes() -> None:
    shadow = row(Failure.INVALID).replace("[identity]", '[identity]\nmode = "shadow"')
    decision = decided(shadow, failed(Failure.INVALID))
    assert decision.verdict.action is ALLOW
    assert [(v.rule, answer_of(v)) for v in decision.shadow] == [("identity", "438 Invalid Identity Header")]


def test_identity_stands_between_the_limits_and_the_subscriber_lists() -> None:
    lists = '[[subscriber_lists.lists]]\ncalled = "+13035550199"\nunwanted = ["2015550123"]\n'
    limit = '[[limits]]\nname = "cps"\nscope = "global"\nrate = 1\nwindow_seconds = 3600\nburst = 1\n'
    assert decided(row(Failure.INVALID) + lists, failed(Failure.INVALID)).verdict.rule == "identity"
    screening = Screening(policy(from_toml(TRUNK + row(Failure.INVALID) + limit)))
    rules = []
    for identity in (failed(Failure.INVALID), None, failed(Failure.INVALID)):
        decision = screening.handle(observe(invite()), NOW, identity)
        assert decision is not None
        rules.append(decision.verdict.rule)
    assert rules == ["identity", "", "cps"]
