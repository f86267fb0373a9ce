"""Who believes Priority: psap-callback and Resource-Priority: esnet.*, which every caller can write."""

import pytest

from agent.identity.model import NOT_SIGNED, Failure, RowCheck, Verification
from agent.model import ALLOW, Category
from agent.policy.document import from_toml
from agent.screening import Decision, Screening
from tests.fakes.calls import CALLED, PEER, invite, observe, policy

NOW = 1_800_000_000.0
CALLBACK = ("Priority: psap-callback",)
ESNET = ("Resource-Priority: esnet.1",)
POLICY = f"""
[[trunks]]
id = "peer"
sources = ["{PEER}"]

[[provider_block.blocks]]
trunk = "peer"
"""
GOOD = RowCheck("shaken", "https://certs.example.net/1.pem", None, "", "1234")
RPH = RowCheck("rph", "https://certs.example.net/1.pem", None, "", "1234")
BAD_RPH = RowCheck("rph", "https://certs.example.net/1.pem", Failure.INVALID, "signature does not verify")


def verified(*rows: RowCheck, psap_callback: bool = False) -> Verification:
    return Verification(None, "", "A", "1234", rows=(GOOD, *rows), psap_callback=psap_callback)


def decided(
    rules: str, headers: tuple[str, ...], identity: Verification | None, called: str = CALLED, source: str = PEER
) -> Decision:
    screening = Screening(policy(from_toml(rules + POLICY)))
    decision = screening.handle(observe(invite(called, headers=headers), NOW, source), NOW, identity)
    assert decision is not None
    assert screening.failures == 0
    return decision


def passes(*arguments: object, **more: str) -> bool:
    verdict = decided(*arguments, **more).verdict  # type: ignore[arg-type]
    assert (verdict.action is ALLOW) == (verdict.category is Category.EMERGENCY)
    return verdict.action is ALLOW


FINDINGS = {
    "not looked at": None,
    "not signed": NOT_SIGNED,
    "bad": Verification(Failure.INVALID, "no"),
    "good, without rph": verified(),
    "good, with a bad rph": verified(BAD_RPH),
}


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("headers", [CALLBACK, ESNET])
@pytest.mark.parametrize("rules", ["", '[identity]\nmode = "shadow"\n', '[identity]\nmode = "off"\n'])
def test_a_mark_counts_as_it_is_where_no_verification_is_enforced(
    rules: str, headers: tuple[str, ...], finding: str
) -> None:
    assert passes(rules, headers, FINDINGS[finding])


@pytest.mark.parametrize("finding", ["not signed", "bad", "good, without rph", "good, with a bad rph"])
@pytest.mark.parametrize("headers", [CALLBACK, ESNET])
def test_a_mark_that_nobody_vouches_for_is_noted_and_no_more_where_verification_is_enforced(
    headers: tuple[str, ...], finding: str
) -> None:
    decision = decided("[identity]\n", headers, FINDINGS[finding])
    assert decision.verdict.category is Category.PROVIDER_BLOCK
    assert [note for note in decision.attempt.notes if "nobody vouches for it" in note]


def test_a_verified_rph_vouches_for_what_it_says() -> None:
    assert passes("[identity]\n", CALLBACK, verified(RPH, psap_callback=True))
    assert passes("[identity]\n", (), verified(RPH, psap_callback=True))
    assert passes("[identity]\n", ESNET, verified(RPH))
    assert not passes("[identity]\n", CALLBACK, verified(RPH))


def test_a_mark_counts_where_verification_came_to_nothing() -> None:
    """The agent has no certificates to verify with, or failed: that must not cost an answering point its call."""
    decision = decided("[identity]\n", CALLBACK, None)
    assert decision.verdict.action is ALLOW
    assert decision.verdict.why == "Priority is psap-callback, not verified"


@pytest.mark.parametrize("headers", [CALLBACK, ESNET])
def test_a_trunk_that_the_policy_believes_needs_no_passport(headers: tuple[str, ...]) -> None:
    rules = '[identity]\n[emergency]\npsap_trunks = ["peer"]\n'
    assert passes(rules, headers, NOT_SIGNED)
    assert not passes(rules, (), NOT_SIGNED)


def test_answering_points_that_the_policy_names_need_no_passport() -> None:
    assert passes(f'[identity]\n[emergency]\npsap_sources = ["{PEER}"]\n', (), NOT_SIGNED)
    assert passes('[identity]\n[emergency]\npsap_calling = ["2015550123"]\n', (), NOT_SIGNED)


@pytest.mark.parametrize("called", ["sip:911@sbc.example.net", "urn:service:sos", "tel:112"])
@pytest.mark.parametrize("finding", FINDINGS)
def test_a_call_to_an_emergency_service_needs_nobodys_word(called: str, finding: str) -> None:
    every = "".join(f'[[identity.failures]]\nfailure = "{f}"\naction = "refuse"\n' for f in Failure)
    rules = '[identity]\nrequired_trunks = ["peer"]\n' + every
    assert passes(rules, (), FINDINGS[finding], called=called)


def test_a_call_waits_to_be_verified_unless_it_is_an_emergency_call_by_whatever_identity() -> None:
    def waits(rules: str, headers: tuple[str, ...] = (), called: str = CALLED) -> bool:
        screening = Screening(policy(from_toml(rules + POLICY)))
        return screening.unverified(observe(invite(called, headers=headers), NOW), NOW) is not None

    assert waits("[identity]\n")
    assert waits("[identity]\n", CALLBACK), "or the mark would pass for not being verified"
    assert waits("[identity]\n", ESNET)
    assert not waits('[identity]\nmode = "shadow"\n', CALLBACK)
    assert not waits('[identity]\n[emergency]\npsap_trunks = ["peer"]\n', CALLBACK)
    assert not waits("[identity]\n", called="sip:911@sbc.example.net")
