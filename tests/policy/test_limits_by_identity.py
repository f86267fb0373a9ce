"""Limits that count by what is known of a call's Identity."""

import pytest

from agent.identity.model import NOT_SIGNED, Failure, Verification
from agent.model import ALLOW, Category, ConfigErrors, Refuse
from agent.policy.document import from_toml
from agent.screening import Screening
from tests.fakes.calls import PEER, invite, observe, policy

NOW = 1_800_000_000.0
TRUNK = f'[[trunks]]\nid = "peer"\nsources = ["{PEER}"]\n'
LIMIT = '[[limits]]\nname = "few"\nscope = "{scope}"\nrate = 1\nburst = 1\nwindow_seconds = 60\n{more}\n'
MISMATCH = Verification(Failure.MISMATCH, "another number", "A", "1234", "")


def vouched(attestation: str, spc: str = "1234") -> Verification:
    return Verification(None, "", attestation, spc, "3e5b0e6c-6bd7-4bd6-9c3f-000000000000")


class Calls:
    """Different calls from one trunk, one after the other, and whether the limit refused them."""

    def __init__(self, rules: str) -> None:
        self._screening = Screening(policy(from_toml(TRUNK + "[identity]\n" + rules)))
        self._count = 0

    def refused(self, identity: Verification | None) -> bool:
        self._count += 1
        call_id = f"call-{self._count}"
        decision = self._screening.handle(observe(invite(call_id=call_id)), NOW, identity)
        assert decision is not None
        assert self._screening.failures == 0
        if decision.verdict.action is ALLOW:
            return False
        assert isinstance(decision.verdict.action, Refuse)
        assert (decision.verdict.rule, decision.verdict.category) == ("few", Category.LIMIT)
        return True


@pytest.mark.parametrize(
    ("counted", "identity"),
    [
        ('"A"', vouched("A")),
        ('"B", "C"', vouched("C")),
        ('"none"', NOT_SIGNED),
        ('"none"', MISMATCH),
    ],
)
def test_limit_of_an_attestation_counts_the_calls_that_have_it(counted: str, identity: Verification) -> None:
    calls = Calls(LIMIT.format(scope="trunk", more=f"attestations = [{counted}]"))
    assert not calls.refused(identity)
    assert calls.refused(identity)


@pytest.mark.parametrize("other", [vouched("B"), NOT_SIGNED, MISMATCH, None])
def test_limit_of_an_attestation_leaves_all_other_calls_alone(other: Verification | None) -> None:
    calls = Calls(LIMIT.format(scope="trunk", more='attestations = ["A"]'))
    assert not any(calls.refused(other) for _ in range(5))


def test_call_that_nobody_looked_at_is_none_of_the_unvouched() -> None:
    calls = Calls(LIMIT.format(scope="trunk", more='attestations = ["none", "C"]'))
    assert not any(calls.refused(None) for _ in range(5))


def test_limit_of_each_signer_counts_by_who_vouches() -> None:
    calls = Calls(LIMIT.format(scope="signer", more=""))
    assert not calls.refused(vouched("A", "1234"))
    assert not calls.refused(vouched("A", "5678"))
    assert calls.refused(vouched("B", "1234"))
    assert not any(calls.refused(MISMATCH) for _ in range(5))


@pytest.mark.parametrize("identity", ["", '[identity]\nmode = "off"\n'])
@pytest.mark.parametrize(
    ("scope", "more", "field"),
    [("signer", "", "limits[0].scope"), ("trunk", 'attestations = ["C"]', "limits[0].attestations")],
)
def test_limit_by_identity_needs_the_rule_that_verifies(identity: str, scope: str, more: str, field: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        policy(from_toml(TRUNK + identity + LIMIT.format(scope=scope, more=more)))
    assert f"{field}" in str(caught.value)
    assert "needs the identity rule" in str(caught.value)


def test_attestation_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigErrors, match=r'limits\[0\]\.attestations\[1\].*"D" is none of A, B, C, none'):
        policy(from_toml(TRUNK + "[identity]\n" + LIMIT.format(scope="trunk", more='attestations = ["A", "D"]')))
