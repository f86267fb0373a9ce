"""Limits of the whole fleet in a policy: what compiles, and how shares decide about calls."""

from math import inf

import pytest

from agent.model import ALLOW, Category, ConfigErrors, Refuse
from agent.policy.compile import compile_policy
from agent.policy.document import from_toml, to_toml
from agent.policy.effective import with_defaults
from agent.policy.leases import FleetRate, Lease, Partition, Safe
from agent.policy.policy import Policy
from agent.policy.rules.leased import fleet_limits, foreseen_keys
from agent.screening import Decision, Screening
from tests.fakes.calls import invite, screen

POLICY = """
[[trunks]]
id = "peer"
sources = ["192.0.2.0/24"]
customer = "acme"

[[customers]]
id = "acme"

[[limits]]
name = "all"
scope = "{scope}"
rate = 600
window_seconds = 60
burst = 3
fleet = "{fleet}"
{more}
"""

NOW = 1000.0
SAFE = Safe(0.1, 1.0)


def policy(fleet: str = "safe", scope: str = "global", more: str = "") -> Policy:
    return compile_policy(from_toml(POLICY.format(fleet=fleet, scope=scope, more=more)), {})


def a_screening(lease: Lease | None, more: str = "", fleet: str = "safe") -> Screening:
    screening = Screening(policy(fleet, more=more))
    screening.leases.attached = True
    screening.leases.demands(NOW)
    if lease is not None:
        screening.leases.give(("all", "*"), lease, NOW)
    return screening


def calls(screening: Screening, count: int, now: float) -> list[Decision]:
    return [screen(screening, invite(call_id=f"{now}-{n}"), now) for n in range(count)]


def passed(decisions: list[Decision]) -> int:
    return sum(decision.verdict.action is ALLOW for decision in decisions)


def test_a_fleet_limit_is_written_read_and_shown_like_any_other_key() -> None:
    message = from_toml(POLICY.format(fleet="hold", scope="trunk", more=""))
    assert from_toml(to_toml(message)) == message
    compiled = compile_policy(message, {})
    assert compiled.limits[0].fleet is Partition.HOLD
    assert with_defaults(message, compiled).limits[0].fleet == message.limits[0].fleet
    assert fleet_limits(compiled) == {"all": FleetRate(10.0, 3.0, Partition.HOLD)}


@pytest.mark.parametrize(
    ("scope", "keys"),
    [
        ("global", ["*"]),
        ("trunk", ["peer", "unknown"]),
        ("customer", ["acme"]),
    ],
)
def test_keys_that_the_policy_names_are_asked_for_before_anybody_calls(scope: str, keys: list[str]) -> None:
    assert [key for _, key in foreseen_keys(policy(scope=scope))] == keys


def test_prefixes_and_chosen_trunks_are_foreseen() -> None:
    chosen = policy(scope="trunk", more='trunks = ["peer"]')
    assert list(foreseen_keys(chosen)) == [("all", "peer")]
    prefixes = policy(scope="called_prefix", more='called_prefixes = ["1900", "53"]')
    assert list(foreseen_keys(prefixes)) == [("all", "1900"), ("all", "53")]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (POLICY.format(fleet="safe", scope="calling", more=""), "limits[0].fleet"),
        (POLICY.format(fleet="safe", scope="called", more=""), "limits[0].fleet"),
        ('[[limits]]\nname = "all"\nscope = "global"\nsessions = 5\nfleet = "safe"', "limits[0].fleet"),
        (POLICY.format(fleet="often", scope="global", more=""), "limits[0].fleet"),
    ],
)
def test_what_cannot_be_leased_is_refused_with_its_field(text: str, field: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        compile_policy(from_toml(text), {})
    assert [error.field for error in caught.value.errors] == [field]


def test_calls_pass_as_the_share_has_tokens_whatever_the_limit_itself_says() -> None:
    screening = a_screening(Lease(100.0, 20.0, inf, SAFE))
    assert passed(calls(screening, 30, NOW + 1)) == 20  # the limit itself has a burst of 3


def test_a_refusal_says_how_large_the_share_is() -> None:
    screening = a_screening(Lease(2.0, 1.0, NOW + 3, SAFE))
    verdict = calls(screening, 2, NOW + 1)[1].verdict
    assert isinstance(verdict.action, Refuse)
    assert (verdict.rule, verdict.category) == ("all", Category.LIMIT)
    assert verdict.why == "2 attempts in 60 s, leased 2 per s, burst 1, of the fleet's 10"
    later = calls(screening, 2, NOW + 60)[1].verdict
    assert later.why.endswith("without the controller 0.1 per s, burst 1, of the fleet's 10")


def test_a_limit_that_nobody_has_leased_yet_admits_nothing_and_says_so() -> None:
    verdict = calls(a_screening(None), 1, NOW)[0].verdict
    assert verdict.why == "1 attempts in 60 s, no share yet of the fleet's 10 per s"


def test_without_a_controller_the_limit_itself_counts() -> None:
    screening = a_screening(None)
    screening.leases.attached = False
    decisions = calls(screening, 5, NOW)
    assert passed(decisions) == 3
    assert decisions[4].verdict.why == "5 attempts in 60 s, limit 600, burst 3"


def test_open_falls_back_to_the_limit_itself() -> None:
    screening = a_screening(Lease(100.0, 20.0, NOW + 3, Safe(0, 0, Partition.OPEN)), fleet="open")
    assert passed(calls(screening, 30, NOW + 10)) == 3


def test_only_calls_that_pass_all_rules_consume_of_a_share() -> None:
    more = '[[limits]]\nname = "tight"\nscope = "called"\nrate = 1\nwindow_seconds = 3600\nburst = 1'
    screening = a_screening(Lease(100.0, 20.0, inf, SAFE), more)
    assert passed(calls(screening, 10, NOW + 1)) == 1  # the other limit refuses nine
    others = [screen(screening, invite(call_id=f"x{n}", called=f"sip:+130355501{n:02}@h"), NOW + 1) for n in range(30)]
    assert passed(others) == 19


def test_a_shadow_limit_of_the_fleet_refuses_on_paper_only() -> None:
    screening = a_screening(Lease(2.0, 1.0, inf, SAFE), 'mode = "shadow"')
    decisions = calls(screening, 4, NOW + 1)
    assert passed(decisions) == 4
    assert [len(decision.shadow) for decision in decisions] == [0, 1, 1, 1]


def test_a_policy_that_keeps_the_limit_keeps_the_share() -> None:
    screening = a_screening(Lease(100.0, 20.0, inf, SAFE))
    assert passed(calls(screening, 15, NOW + 1)) == 15
    screening.swap(policy())
    assert passed(calls(screening, 15, NOW + 1.001)) == 5


def test_emergency_calls_need_no_share() -> None:
    screening = a_screening(Lease(0.0, 0.0, inf, Safe()))
    assert passed([screen(screening, invite(call_id="e", called="sip:911@sbc.example.net"), NOW + 1)]) == 1
    assert passed(calls(screening, 1, NOW + 1)) == 0
