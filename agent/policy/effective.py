"""The policy with every default filled in: what the file amounts to.

The defaults are taken from the compiled policy, so that nothing can be shown that is not decided by. A rule or limit
that is off is not compiled, and is left as written. Knows both forms of the policy; decides nothing.
"""

from ipaddress import ip_network
from typing import Final

from agent.model import Answer, Category
from agent.policy.compile_identity import FAILURES, VERSTATS
from agent.policy.policy import CallerIdSpec, IdentitySpec, LimitSpec, Policy
from agent.policy.refusals import answer_for
from agent.policy.trunks import AddressBook, Trunk
from sbcedge.policy.v1 import policy_pb2 as pb

CATEGORIES: Final = {
    "provider_block": Category.PROVIDER_BLOCK,
    "do_not_originate": Category.DO_NOT_ORIGINATE,
    "caller_id_authorisation": Category.CALLER_ID,
    "subscriber_lists": Category.SUBSCRIBER,
}
TOLD: Final = {verstat: number for number, verstat in VERSTATS.items()}


def with_defaults(message: pb.Policy, policy: Policy) -> pb.Policy:
    """A copy of `message` in which absent keys have the value that `policy`, compiled from it, decides by."""
    full = pb.Policy()
    full.CopyFrom(message)
    for trunk in full.trunks:
        _fill_trunk(trunk, policy.addresses)
    for field, category in CATEGORIES.items():
        if full.HasField(field):
            _fill_rule(getattr(full, field), category)
    if policy.caller_id is not None:
        _fill_caller_id(full.caller_id_authorisation, policy.caller_id)
    if policy.identity is not None:
        _fill_identity(full.identity, policy.identity)
    if policy.signing is not None:
        full.signing.mode = full.signing.mode or pb.MODE_ENFORCE
    specs = {spec.name: spec for spec in policy.limits}
    for limit in full.limits:
        _fill_rule(limit, Category.LIMIT)
        if limit.name in specs:
            _fill_limit(limit, specs[limit.name])
    return full


def _fill_trunk(written: pb.Trunk, addresses: AddressBook) -> None:
    found = (addresses.sender(str(ip_network(source).network_address)) for source in written.sources)
    trunk: Trunk | None = next((t for t in found if t is not None and t.id == written.id), None)
    if trunk is not None:  # None: other trunks claim all its addresses with longer prefixes
        written.upstream = trunk.upstream
        written.default_country = trunk.default_country or "none"
        written.redirect.code = trunk.pass_code


_Rule = pb.ProviderBlockRule | pb.DoNotOriginateRule | pb.CallerIdRule | pb.SubscriberListRule | pb.Limit


def _fill_rule(written: _Rule, category: Category) -> None:
    written.mode = written.mode or pb.MODE_ENFORCE
    answer: Answer = answer_for(category, written.answer, "answer")
    written.answer.code, written.answer.phrase = answer.code, answer.phrase


def _fill_caller_id(written: pb.CallerIdRule, spec: CallerIdSpec) -> None:
    written.warn_first = spec.warn_first or -1
    written.period_seconds = spec.period
    written.suspend_seconds = spec.suspend


def _fill_limit(written: pb.Limit, spec: LimitSpec) -> None:
    written.warn_at = spec.warn_at
    if spec.rate is not None:
        written.window_seconds = spec.rate.window
        written.burst = spec.rate.burst


def _fill_identity(written: pb.IdentityRule, spec: IdentitySpec) -> None:
    written.mode = written.mode or pb.MODE_ENFORCE
    written.freshness_seconds, written.wait_seconds = spec.freshness, spec.wait
    if not written.HasField("mark"):
        written.mark = True
    del written.failures[:]
    for number, failure in FAILURES.items():
        handling = spec.handling[failure]
        row = written.failures.add(failure=number, verstat=TOLD[handling.verstat], action=pb.FAILURE_ACTION_PASS)
        if handling.answer is not None:
            row.action = pb.FAILURE_ACTION_REFUSE
            row.answer.code, row.answer.phrase = handling.answer.code, handling.answer.phrase
