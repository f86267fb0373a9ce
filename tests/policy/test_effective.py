"""What a policy amounts to: every default that it is decided by, and nothing that the file says is lost."""

from agent.policy.compile import compile_policy
from agent.policy.document import from_toml
from agent.policy.effective import with_defaults
from sbcedge.policy.v1 import policy_pb2 as pb

WRITTEN = """
generation = 2

[[trunks]]
id = "peer"
sources = ["198.51.100.0/24"]

[[trunks]]
id = "pbx"
sources = ["203.0.113.10", "198.51.100.7"]
customer = "acme"
upstream = "other"
default_country = "none"
redirect = { next_hop = "192.0.2.9" }

[[customers]]
id = "acme"
numbers = ["201555*"]

[caller_id_authorisation]

[do_not_originate]
mode = "off"

[[limits]]
name = "cps"
scope = "trunk"
rate = 30

[[limits]]
name = "calls"
mode = "shadow"
scope = "global"
sessions = 5
answer = { code = 486, phrase = "No Line" }
"""


def effective(text: str) -> pb.Policy:
    message = from_toml(text)
    return with_defaults(message, compile_policy(message, {}))


def test_absent_keys_have_the_value_that_is_decided_by() -> None:
    full = effective(WRITTEN)
    compiled = compile_policy(from_toml(WRITTEN), {})
    peer, pbx = full.trunks
    assert (peer.upstream, peer.default_country) == ("peer", "1")
    assert (pbx.upstream, pbx.default_country) == ("other", "none")
    assert (peer.redirect.code, peer.redirect.next_hop) == (404, "")
    assert (pbx.redirect.code, pbx.redirect.next_hop) == (302, "192.0.2.9")
    rule = full.caller_id_authorisation
    assert (rule.mode, rule.warn_first, rule.period_seconds) == (pb.MODE_ENFORCE, 1, 86400.0)
    assert (rule.answer.code, rule.answer.phrase) == (603, "Decline")
    cps, calls = full.limits
    rate = compiled.limits[0].rate
    assert rate is not None
    assert (cps.mode, cps.window_seconds, cps.burst, cps.warn_at) == (pb.MODE_ENFORCE, 1.0, rate.burst, 0.8)
    assert (cps.answer.code, cps.answer.phrase) == (503, "Service Unavailable")
    assert (calls.mode, calls.rate, calls.burst) == (pb.MODE_SHADOW, 0.0, 0.0)
    assert (calls.answer.code, calls.answer.phrase) == (486, "No Line")


def test_rules_that_are_not_in_the_file_stay_out_of_it() -> None:
    full = effective(WRITTEN)
    assert not full.HasField("provider_block")
    assert not full.HasField("subscriber_lists")
    assert full.do_not_originate.mode == pb.MODE_OFF


def test_the_written_message_is_left_as_it_was() -> None:
    message = from_toml(WRITTEN)
    with_defaults(message, compile_policy(message, {}))
    assert message == from_toml(WRITTEN)


def test_what_is_shown_is_decided_alike() -> None:
    """The full form compiles to the same decisions, and filling it in again changes nothing."""
    full = effective(WRITTEN)
    first, again = compile_policy(from_toml(WRITTEN), {}), compile_policy(full, {})
    assert [(limit.rate, limit.sessions, limit.warn_at, limit.rule.answer) for limit in again.limits] == [
        (limit.rate, limit.sessions, limit.warn_at, limit.rule.answer) for limit in first.limits
    ]
    assert with_defaults(full, again) == full
