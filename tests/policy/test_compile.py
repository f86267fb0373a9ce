"""A policy compiles whole or not at all, and every error names its field."""

import pytest
from google.protobuf import text_format

from agent.model import ConfigErrors
from agent.policy.compile import compile_policy
from agent.policy.policy import Mode, Scope
from sbcedge.policy.v1 import policy_pb2 as pb

VALID = """
generation: 3
trunks { id: "peer" sources: "192.0.2.0/24" customer: "acme" default_country: "none" }
customers { id: "acme" numbers: "201555*" }
limits { name: "cps" scope: SCOPE_TRUNK rate: 30 }
"""


def parsed(text: str) -> pb.Policy:
    return text_format.Parse(text, pb.Policy())


def errors_of(text: str) -> dict[str, str]:
    """Field to reason of everything that is wrong."""
    with pytest.raises(ConfigErrors) as caught:
        compile_policy(parsed(text), {})
    return {error.field: error.reason for error in caught.value.errors}


def test_defaults_are_filled_in() -> None:
    policy = compile_policy(parsed(VALID), {})
    (limit,) = policy.limits
    assert limit.scope is Scope.TRUNK
    assert limit.rule.mode is Mode.ENFORCE
    assert str(limit.rule.answer) == "503 Service Unavailable"
    assert limit.rate is not None
    assert (limit.rate.count, limit.rate.window, limit.rate.burst) == (30, 1, 10)
    trunk = policy.addresses.sender("192.0.2.77")
    assert trunk is not None
    assert (trunk.id, trunk.customer, trunk.upstream, trunk.default_country) == ("peer", "acme", "peer", "")


def test_a_rule_whose_table_is_absent_is_off() -> None:
    policy = compile_policy(pb.Policy(), {})
    assert (policy.dno, policy.caller_id, policy.provider_block, policy.subscriber_lists) == (None,) * 4


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ('trunks { id: "a b" sources: "192.0.2.1" }', "trunks[0].id", "characters"),
        ('trunks { id: "unknown" sources: "192.0.2.1" }', "trunks[0].id", "no trunk claims"),
        ('trunks { id: "a" }', "trunks[0].sources", "at least one"),
        ('trunks { id: "a" sources: "192.0.2.1/24" }', "trunks[0].sources[0]", "host bits"),
        ('trunks { id: "a" sources: "here" }', "trunks[0].sources[0]", "here"),
        ('trunks { id: "a" sources: "192.0.2.1" customer: "x" }', "trunks[0].customer", "not among the customers"),
        ('trunks { id: "a" sources: "192.0.2.1" default_country: "01" }', "trunks[0].default_country", "country code"),
        (
            'trunks { id: "a" sources: "192.0.2.1" } trunks { id: "b" sources: "192.0.2.1" }',
            "trunks[1].sources[0]",
            "already belongs to trunk a",
        ),
        ('trunks { id: "a" sources: "192.0.2.1" redirect { code: 603 } }', "trunks[0].redirect.code", "302, 404, 503"),
        ('trunks { id: "a" sources: "192.0.2.1" redirect { code: 302 } }', "trunks[0].redirect.next_hop", "needs it"),
        (
            'trunks { id: "a" sources: "192.0.2.1" redirect { next_hop: "a b" } }',
            "trunks[0].redirect.next_hop",
            "is no host",
        ),
        ('customers { id: "a" numbers: "alice" }', "customers[0].numbers[0]", "alice"),
        ('emergency { numbers: "12345678" }', "emergency.numbers[0]", "dialled code"),
        ('provider_block { blocks { trunk: "a" upstream: "b" } }', "provider_block.blocks[0]", "either"),
        ("provider_block { blocks { } }", "provider_block.blocks[0]", "either"),
        ('provider_block { blocks { trunk: "a" } }', "provider_block.blocks[0].trunk", "not among the trunks"),
        (
            'provider_block { blocks { upstream: "a" starts_at: "tomorrow" } }',
            "provider_block.blocks[0].starts_at",
            "RFC 3339",
        ),
        (
            'provider_block { blocks { upstream: "a" starts_at: "2026-12-01T00:00:00" } }',
            "provider_block.blocks[0].starts_at",
            "zone",
        ),
        (
            (
                'provider_block { blocks { upstream: "a" starts_at: "2026-12-01T00:00:00Z" '
                'ends_at: "2026-11-01T00:00:00Z" } }'
            ),
            "provider_block.blocks[0].ends_at",
            "after",
        ),
        ('do_not_originate { lists: "no.list" }', "do_not_originate.lists[0]", "no such list"),
        ("do_not_originate { answer { code: 503 } }", "do_not_originate.answer.code", "lawful: 603, 403"),
        ("do_not_originate { answer { code: 604 } }", "do_not_originate.answer.code", "604"),
        (
            'do_not_originate { answer { phrase: "Network  Blocked" } }',
            "do_not_originate.answer.phrase",
            "603+",
        ),
        ('do_not_originate { answer { phrase: "a\\r\\nb" } }', "do_not_originate.answer.phrase", "printable"),
        ('do_not_originate { allow { trunks: "x" } }', "do_not_originate.allow.trunks[0]", "not among"),
        ("caller_id_authorisation { warn_first: -2 }", "caller_id_authorisation.warn_first", "-1"),
        ("caller_id_authorisation { period_seconds: -1 }", "caller_id_authorisation.period_seconds", "seconds"),
        ("caller_id_authorisation { period_seconds: nan }", "caller_id_authorisation.period_seconds", "seconds"),
        ('limits { name: "a" scope: SCOPE_TRUNK }', "limits[0]", "rate, sessions, or both"),
        ('limits { name: "a" rate: 1 }', "limits[0].scope", "what to count by"),
        ('limits { name: "emergency" scope: SCOPE_TRUNK rate: 1 }', "limits[0].name", "built-in"),
        ('limits { name: "a" scope: SCOPE_TRUNK rate: -1 }', "limits[0].rate", "above 0"),
        ('limits { name: "a" scope: SCOPE_TRUNK rate: inf }', "limits[0].rate", "above 0"),
        ('limits { name: "a" scope: SCOPE_TRUNK rate: 1 burst: 0.5 }', "limits[0].burst", "from 1"),
        ('limits { name: "a" scope: SCOPE_TRUNK sessions: 1 burst: 2 }', "limits[0].burst", "goes with a rate"),
        ('limits { name: "a" scope: SCOPE_TRUNK rate: 1 warn_at: 2 }', "limits[0].warn_at", "share"),
        ('limits { name: "a" scope: SCOPE_TRUNK rate: 9 drop_above: 5 }', "limits[0].drop_above", "above the rate"),
        ('limits { name: "a" scope: SCOPE_CALLED_PREFIX rate: 1 }', "limits[0].called_prefixes", "goes with"),
        (
            'limits { name: "a" scope: SCOPE_CALLED_PREFIX rate: 1 called_prefixes: "+1" }',
            "limits[0].called_prefixes[0]",
            "E.164",
        ),
        (
            'limits { name: "a" scope: SCOPE_TRUNK rate: 1 answer { code: 480 retry_after_seconds: 5 } }',
            "limits[0].answer.retry_after_seconds",
            "503 only",
        ),
        (
            'limits { name: "a" scope: SCOPE_TRUNK rate: 1 } limits { name: "a" scope: SCOPE_TRUNK rate: 1 }',
            "limits[1].name",
            "twice",
        ),
        ('subscriber_lists { lists { called: "201555*" } }', "subscriber_lists.lists[0].called", "one number"),
        ('subscriber_lists { lists { called: "911" } }', "subscriber_lists.lists[0].called[0]", "911"),
        (
            'subscriber_lists { lists { called: "2015550100" } lists { called: "12015550100" } }',
            "subscriber_lists.lists[1].called",
            "already",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, field: str, reason: str) -> None:
    assert reason in errors_of(text)[field]


def test_all_errors_are_told_at_once() -> None:
    wrong = errors_of('trunks { id: "?" sources: "x" } limits { } do_not_originate { answer { code: 200 } }')
    assert {"trunks[0].id", "trunks[0].sources[0]", "limits[0].name", "do_not_originate.answer.code"} <= wrong.keys()


def test_more_rate_limits_than_a_bank_holds_are_refused() -> None:
    text = "".join(f'limits {{ name: "l{i}" scope: SCOPE_TRUNK rate: 1 }}' for i in range(33))
    assert "at most 32" in errors_of(text)["limits"]


def test_retry_after_goes_with_503() -> None:
    spec = 'limits { name: "a" scope: SCOPE_TRUNK rate: 1 answer { retry_after_seconds: 7 } }'
    (limit,) = compile_policy(parsed(spec), {}).limits
    assert limit.rule.answer.headers == (("Retry-After", "7"),)


@pytest.mark.parametrize("mode", [pb.MODE_OFF, pb.MODE_SHADOW, pb.MODE_ENFORCE, pb.MODE_UNSPECIFIED])
def test_every_rule_has_every_mode(mode: "pb.Mode") -> None:
    message = parsed(VALID)
    message.do_not_originate.mode = mode
    message.caller_id_authorisation.mode = mode
    message.provider_block.mode = mode
    message.provider_block.blocks.add(trunk="peer")
    message.subscriber_lists.mode = mode
    message.subscriber_lists.lists.add(called="2015550100", unwanted=["anonymous"])
    message.limits[0].mode = mode
    policy = compile_policy(message, {})
    specs = [policy.dno, policy.caller_id, policy.provider_block, policy.subscriber_lists, *policy.limits]
    if mode == pb.MODE_OFF:
        assert [s for s in specs if s is not None] == []
    else:
        wanted = Mode.SHADOW if mode == pb.MODE_SHADOW else Mode.ENFORCE
        assert [s.rule.mode for s in specs if s is not None] == [wanted] * 5
