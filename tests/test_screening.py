"""The pipeline: order of rules, shadow, counting, retransmissions, and that nothing unreadable is ever blocked."""

from dataclasses import replace

import pytest

from agent.calls.attempts import Seen
from agent.model import ALLOW, DISCARD, RELEASE, Category, Drop, Refuse, Reply
from agent.screening import Screening
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.fakes.calls import CALLED, CALLER, PEER, SBC, invite, observe, policy, response, screen

NOW = 1_800_000_000.0
INVALID = "sip:+12012115555@a.example.net;user=phone"


def one_limit(**fields: object) -> pb.Policy:
    """A policy with one trunk and one limit on it."""
    limit = pb.Limit(**{"name": "rate-per-trunk", "scope": pb.SCOPE_TRUNK, **fields})  # type: ignore[arg-type]
    return pb.Policy(trunks=[pb.Trunk(id="peer", sources=[PEER])], limits=[limit])


def refused(screening: Screening, attempts: int, now: float = NOW) -> int:
    """How many of so many fresh attempts are not let pass."""
    return sum(screen(screening, invite(), now).verdict.action is not ALLOW for _ in range(attempts))


def test_without_rules_every_call_passes_untouched() -> None:
    screening = Screening(policy())
    decision = screen(screening, invite())
    assert decision.verdict.action is ALLOW
    assert screening.effects(decision) == (RELEASE,)


def test_an_invalid_calling_number_is_refused_with_its_reason_and_answer() -> None:
    message = pb.Policy(generation=7, do_not_originate=pb.DoNotOriginateRule())
    screening = Screening(policy(message))
    decision = screen(screening, invite(calling=INVALID))
    assert decision.verdict.rule == "do-not-originate"
    assert "12012115555" in decision.verdict.why
    assert isinstance(decision.verdict.action, Refuse)
    assert decision.verdict.action.answer.code == 603
    first, second = screening.effects(decision)
    assert first is DISCARD
    assert isinstance(second, Reply)
    assert second.payload.startswith(b"SIP/2.0 603 Decline\r\n")
    assert decision.record().policy_generation == 7


@pytest.mark.parametrize(
    "calling",
    ["sip:anonymous@anonymous.invalid", "sip:a.example.net", "sip:alice@a.example.net", "sip:911@a.example.net"],
)
def test_a_caller_without_a_number_is_not_an_invalid_number(calling: str) -> None:
    message = pb.Policy(do_not_originate=pb.DoNotOriginateRule())
    assert screen(Screening(policy(message)), invite(calling=calling)).verdict.action is ALLOW


def test_a_retransmitted_invite_gets_the_same_answer_and_is_counted_once() -> None:
    screening = Screening(policy(one_limit(rate=1, burst=1)))
    screen(screening, invite())
    raw = invite()
    first = screen(screening, raw, NOW)
    assert first.seen is Seen.NEW
    for delay in (0.5, 1.5, 3.5, 7.5, 15.5, 31.5):
        again = screen(screening, raw, NOW + delay)
        assert again.seen is Seen.RETRANSMISSION
        assert again.verdict == first.verdict
        assert screening.effects(again) == screening.effects(first)


def test_a_limit_says_how_many_attempts_came_and_what_was_allowed() -> None:
    screening = Screening(policy(one_limit(rate=30, burst=10)))
    verdicts = [screen(screening, invite()).verdict for _ in range(31)]
    assert verdicts[9].action is ALLOW
    assert verdicts[30].rule == "rate-per-trunk"
    assert verdicts[30].why == "31 attempts in 1 s, limit 30, burst 10"
    assert isinstance(verdicts[30].action, Refuse)
    assert verdicts[30].action.answer.code == 503


def test_a_limit_never_answers_603() -> None:
    from agent.model import ConfigError

    with pytest.raises(ConfigError, match=r"limits\[0\]\.answer\.code"):
        policy(one_limit(rate=1, answer=pb.AnswerSpec(code=603)))


def test_a_flood_that_one_limit_refuses_does_not_eat_what_another_grants() -> None:
    message = pb.Policy(
        trunks=[pb.Trunk(id="flood", sources=["192.0.2.66"]), pb.Trunk(id="good", sources=["192.0.2.77"])],
        limits=[
            pb.Limit(name="global", scope=pb.SCOPE_GLOBAL, rate=100, burst=100),
            pb.Limit(name="per-trunk", scope=pb.SCOPE_TRUNK, rate=10, burst=10),
        ],
    )
    screening = Screening(policy(message))
    for _ in range(1000):
        screen(screening, invite(), NOW, source="192.0.2.66")
    good = [screen(screening, invite(), NOW, source="192.0.2.77").verdict.action for _ in range(10)]
    assert good == [ALLOW] * 10


def test_a_shadow_rule_refuses_on_paper_only() -> None:
    screening = Screening(policy(one_limit(rate=1, burst=1, mode=pb.MODE_SHADOW)))
    screen(screening, invite())
    decision = screen(screening, invite())
    assert decision.verdict.action is ALLOW
    assert [v.rule for v in decision.shadow] == ["rate-per-trunk"]
    assert decision.record().shadow[0]["answer"] == "503 Service Unavailable"


def test_the_first_refusal_by_an_enforcing_rule_decides_and_shadow_refusals_are_kept() -> None:
    message = one_limit(rate=1, burst=1)
    message.do_not_originate.mode = pb.MODE_SHADOW
    message.provider_block.blocks.add(trunk="peer", reference="FDO")
    decision = screen(Screening(policy(message)), invite(calling=INVALID))
    assert decision.verdict.rule == "provider-block"
    assert [v.rule for v in decision.shadow] == ["do-not-originate"]


def test_above_the_flood_threshold_calls_are_dropped_in_silence() -> None:
    screening = Screening(policy(one_limit(rate=10, burst=1, drop_above=50)))
    actions = [screen(screening, invite()).verdict.action for _ in range(60)]
    assert isinstance(actions[49], Refuse)
    assert isinstance(actions[50], Drop)
    assert screening.effects(screen(screening, invite())) == (DISCARD,)


def test_sessions_are_held_until_the_call_ends() -> None:
    screening = Screening(policy(one_limit(sessions=2)))
    first, second = invite(), invite()
    assert screen(screening, first).verdict.action is ALLOW
    assert screen(screening, second).verdict.action is ALLOW
    over = screen(screening, invite())
    assert over.verdict.why == "2 calls in progress, limit 2"
    assert screening.handle(observe(response(first, 486), NOW, SBC), NOW + 1) is None
    assert screen(screening, invite(), NOW + 2).verdict.action is ALLOW


def test_the_482_to_a_fork_does_not_end_the_call() -> None:
    screening = Screening(policy(one_limit(sessions=1)))
    screen(screening, invite(call_id="c", branch="z9hG4bKa"))
    fork = invite(call_id="c", branch="z9hG4bKb")
    assert screen(screening, fork).seen is Seen.MERGED
    screening.handle(observe(response(fork, 482), NOW, SBC), NOW + 1)
    assert screen(screening, invite(), NOW + 2).verdict.action is not ALLOW


def test_a_retry_after_a_challenge_is_the_same_attempt() -> None:
    screening = Screening(policy(one_limit(rate=1, burst=1)))
    first = invite(call_id="c@a.example.net", cseq=1)
    assert screen(screening, first).verdict.action is ALLOW
    screening.handle(observe(response(first, 407), NOW, SBC), NOW + 0.1)
    retry = screen(screening, invite(call_id="c@a.example.net", cseq=2), NOW + 0.2)
    assert retry.seen is Seen.CONTINUATION
    assert retry.verdict.action is ALLOW


def test_a_retry_after_a_refusal_is_judged_again() -> None:
    screening = Screening(policy(one_limit(rate=1, burst=1)))
    screen(screening, invite())
    assert screen(screening, invite(call_id="c", cseq=1)).verdict.action is not ALLOW
    assert screen(screening, invite(call_id="c", cseq=2), NOW + 5).verdict.action is ALLOW


@pytest.mark.parametrize("same", ["branch and CSeq", "Call-ID only"])
def test_a_known_call_id_is_no_way_past_the_rules(same: str) -> None:
    screening = Screening(policy(pb.Policy(do_not_originate=pb.DoNotOriginateRule())))
    assert screen(screening, invite(call_id="c", branch="z9hG4bKa")).verdict.action is ALLOW
    disguised = (
        invite(calling=INVALID, call_id="c", branch="z9hG4bKa")
        if same == "branch and CSeq"
        else invite(calling=INVALID, call_id="c", cseq=2)
    )
    assert screen(screening, disguised).verdict.rule == "do-not-originate"


@pytest.mark.parametrize(
    "raw",
    [b"", b"\r\n\r\n", b"\x00" * 50, b"INVITE sip:x SIP/7.0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 70_000],
)
def test_what_cannot_be_read_is_counted_and_passes(raw: bytes) -> None:
    screening = Screening(policy(pb.Policy(do_not_originate=pb.DoNotOriginateRule())))
    assert screening.handle(observe(raw), NOW) is None
    assert screening.unreadable == 1


def test_a_fault_of_ours_is_counted_and_the_call_passes() -> None:
    errors: list[Exception] = []
    screening = Screening(policy(pb.Policy(do_not_originate=pb.DoNotOriginateRule())), on_failure=errors.append)

    class Broken:
        name = "broken"
        enforcing = True

        def check(self, attempt: object, now: float) -> None:
            raise ZeroDivisionError

    screening.rules = replace(screening.rules, before=(Broken(),))
    assert screening.handle(observe(invite()), NOW) is None
    assert screening.failures == 1
    assert isinstance(errors[0], ZeroDivisionError)


def test_a_refused_request_that_nobody_could_answer_goes_on_to_the_sbc() -> None:
    screening = Screening(policy(pb.Policy(do_not_originate=pb.DoNotOriginateRule())))
    raw = b"INVITE sip:+13035550199@sbc.example.net SIP/2.0\r\nFrom: <" + INVALID.encode() + b">;tag=1\r\n\r\n"
    decision = screen(screening, raw)
    assert decision.verdict.rule == "do-not-originate"
    assert screening.effects(decision) == (RELEASE,)


def test_in_dialog_requests_and_what_the_sbc_sends_are_never_decided() -> None:
    message = pb.Policy(local_addresses=[f"{SBC}/32"], do_not_originate=pb.DoNotOriginateRule())
    screening = Screening(policy(message))
    assert screening.handle(observe(invite(calling=INVALID, to_tag="b")), NOW) is None
    assert screening.handle(observe(invite(calling=INVALID), NOW, SBC), NOW) is None


def test_a_trusted_peer_is_judged_by_the_number_that_it_asserts() -> None:
    row = "P-Asserted-Identity: <sip:+12012115555@a.example.net;user=phone>, <tel:+12012115555>"
    for trusted in (True, False):
        message = pb.Policy(
            trunks=[pb.Trunk(id="peer", sources=[PEER], trust_asserted_identity=trusted)],
            do_not_originate=pb.DoNotOriginateRule(),
        )
        decision = screen(Screening(policy(message)), invite(headers=(row,)))
        assert (decision.verdict.rule == "do-not-originate") is trusted


def test_a_hit_on_the_number_that_is_not_shown_is_a_note() -> None:
    message = pb.Policy(
        trunks=[pb.Trunk(id="peer", sources=[PEER], trust_asserted_identity=True)],
        do_not_originate=pb.DoNotOriginateRule(),
    )
    row = f"P-Asserted-Identity: <{CALLER}>"
    decision = screen(Screening(policy(message)), invite(calling=INVALID, headers=(row,)))
    assert decision.verdict.action is ALLOW
    assert "12012115555" in decision.attempt.notes[0]


def test_the_first_infraction_warns_the_next_is_refused_and_the_customer_suspended() -> None:
    message = pb.Policy(
        trunks=[pb.Trunk(id="peer", sources=[PEER], customer="acme")],
        customers=[pb.Customer(id="acme", numbers=["+12015550100"])],
        caller_id_authorisation=pb.CallerIdRule(warn_first=1, period_seconds=3600, suspend_seconds=600),
    )
    screening = Screening(policy(message))
    own = "sip:+12015550100@a.example.net"
    assert screen(screening, invite(calling=own)).attempt.notes == ()
    warned = screen(screening, invite())
    assert warned.verdict.action is ALLOW
    assert "infraction 1" in warned.attempt.notes[0]
    assert screen(screening, invite(), NOW + 1).verdict.category is Category.CALLER_ID
    assert "suspended" in screen(screening, invite(calling=own), NOW + 2).verdict.why
    assert screen(screening, invite(calling=own), NOW + 700).verdict.action is ALLOW


def test_a_provider_block_binds_from_its_date_on() -> None:
    message = pb.Policy(trunks=[pb.Trunk(id="peer", sources=[PEER], upstream="shady")])
    message.provider_block.blocks.add(upstream="shady", starts_at="2027-01-15T08:00:00Z", reference="FDO DA 00-1")
    screening = Screening(policy(message))
    start = 1_800_000_000.0
    assert screen(screening, invite(), start - 1).verdict.action is ALLOW
    verdict = screen(screening, invite(), start).verdict
    assert verdict.why == "provider shady is blocked since 2027-01-15 (FDO DA 00-1)"


def test_a_trunk_whose_own_block_is_over_is_still_blocked_through_its_provider() -> None:
    message = pb.Policy(trunks=[pb.Trunk(id="peer", sources=[PEER], upstream="shady")])
    message.provider_block.blocks.add(trunk="peer", ends_at="2020-01-01T00:00:00Z")
    message.provider_block.blocks.add(upstream="shady")
    assert screen(Screening(policy(message)), invite()).verdict.category is Category.PROVIDER_BLOCK


def test_a_subscriber_refuses_its_own_callers_with_607() -> None:
    message = pb.Policy()
    message.subscriber_lists.lists.add(called="+13035550199", unwanted=["+12015550123", "anonymous"])
    screening = Screening(policy(message))
    verdict = screen(screening, invite()).verdict
    assert isinstance(verdict.action, Refuse)
    assert str(verdict.action.answer) == "607 Unwanted"
    anonymous = invite(calling="sip:anonymous@anonymous.invalid")
    assert screen(screening, anonymous).verdict.category is Category.SUBSCRIBER
    assert screen(screening, invite(calling="sip:+12015550124@a.example.net")).verdict.action is ALLOW


@pytest.mark.parametrize("where", ["allow", "rule"])
def test_an_allow_list_beats_a_rule(where: str) -> None:
    message = pb.Policy(do_not_originate=pb.DoNotOriginateRule())
    allow = message.allow if where == "allow" else message.do_not_originate.allow
    allow.called.append("+1303555*")
    assert screen(Screening(policy(message)), invite(calling=INVALID)).verdict.action is ALLOW
    elsewhere = invite("sip:+14045550199@sbc.example.net", INVALID)
    assert screen(Screening(policy(message)), elsewhere).verdict.action is not ALLOW


def test_limits_may_choose_their_trunks_and_count_by_called_prefix() -> None:
    message = one_limit(scope=pb.SCOPE_CALLED_PREFIX, called_prefixes=["1900", "1303"], rate=1, burst=1)
    screening = Screening(policy(message))
    assert refused(screening, 3) == 2
    assert screen(screening, invite("sip:+14045550199@sbc.example.net")).verdict.action is ALLOW
    chosen = Screening(policy(one_limit(trunks=["unknown"], rate=1, burst=1)))
    assert refused(chosen, 3) == 0


def test_a_changed_policy_keeps_what_was_counted() -> None:
    screening = Screening(policy(one_limit(rate=1, window_seconds=60, burst=1)))
    assert refused(screening, 2) == 1
    screening.swap(policy(one_limit(rate=1, window_seconds=60, burst=1)))
    assert refused(screening, 1) == 1


def test_warnings_are_noted_once_per_window() -> None:
    screening = Screening(policy(one_limit(rate=10, burst=10, warn_at=0.5)))
    notes = [screen(screening, invite()).attempt.notes for _ in range(8)]
    assert [bool(n) for n in notes] == [False] * 4 + [True] + [False] * 3


def test_the_record_names_everything_that_a_desk_asks_for() -> None:
    token = "eyJ9.eyJhdHRlc3QiOiJCIn0.sig"
    row = f"Identity: {token};info=<https://certs.example.net/1.pem>;alg=ES256;ppt=shaken"
    record = screen(Screening(policy()), invite(CALLED, headers=(row,))).record().as_dict()
    assert record["calling"] == "12015550123"
    assert record["called"] == "13035550199"
    assert record["trunk"] == "unknown"
    assert record["identity"] == ({"sha256": record["identity"][0]["sha256"], "attestation": "B"},)  # type: ignore[index]
    assert record["time"] == "2027-01-15T08:00:00.000000Z"
