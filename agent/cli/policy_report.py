"""A policy as rows of tables: its trunks, and what each rule decides, in the order in which they run."""

from collections.abc import Sequence
from typing import Final

from agent.identity.model import Failure
from agent.policy.emergency import ALWAYS
from agent.policy.policy import LimitSpec, Policy, RuleSpec
from agent.policy.rules import caller_id, do_not_originate, emergency, identity, provider_block, subscriber_list
from sbcedge.policy.v1 import policy_pb2 as pb

COLUMNS: Final = ("rule", "mode", "decides", "answer")
TRUNK_COLUMNS: Final = ("trunk", "sends from", "customer", "upstream", "country", "asserted identity")
Row = tuple[str, str, str, str]
NOT_THERE = "not in the file"
OFF = "off"


def summary(message: pb.Policy) -> dict[str, str | int]:
    """Numbers about the policy, for one line."""
    return {
        "generation": message.generation,
        "name": message.name,
        "trunks": len(message.trunks),
        "customers": len(message.customers),
        "limits": len(message.limits),
    }


def title(message: pb.Policy) -> str:
    """The same in words: Generation 7 "spring", 2 trunks, 1 customer."""
    name = f' "{message.name}"' if message.name else ""
    trunks, customers = _count(len(message.trunks), "trunk"), _count(len(message.customers), "customer")
    return f"Generation {message.generation}{name}, {trunks}, {customers}"


def trunk_rows(message: pb.Policy) -> list[Sequence[str]]:
    """Trunk, addresses, customer, upstream, country, trust."""
    return [
        (
            t.id,
            " ".join(t.sources),
            t.customer,
            t.upstream,
            t.default_country,
            "trusted" if t.trust_asserted_identity else "not trusted",
        )
        for t in message.trunks
    ]


def rule_rows(message: pb.Policy, policy: Policy) -> list[Row]:
    """Name, mode, what is decided, answer: of every rule, also of those that are off or have nothing to do.

    Signing refuses nothing and stands at the end.
    """
    return [
        _emergency(policy),
        _provider_block(message, policy),
        _dno(message, policy),
        _caller_id(message, policy),
        *_limits(message, policy),
        _identity(message, policy),
        _subscriber_lists(message, policy),
        _signing(message, policy),
    ]


def _emergency(policy: Policy) -> Row:
    numbers = ", ".join(sorted(ALWAYS | policy.emergency.numbers))
    from_psaps = policy.emergency.psap_calling or policy.emergency.psap_sources
    psaps = "; calls from answering points" if from_psaps else ""
    if policy.emergency.believed is not None:
        trunks = ", ".join(sorted(policy.emergency.believed))
        psaps += f"; marked ones if vouched for{f', or from {trunks}' if trunks else ''}"
    return emergency.NAME, "always", f"passes: calls to {numbers}{psaps}", ""


def _provider_block(message: pb.Policy, policy: Policy) -> Row:
    if policy.provider_block is None:
        return _idle(provider_block.NAME, message.HasField("provider_block"), message.provider_block.mode, "no blocks")
    names = ", ".join(block.trunk or block.upstream for block in policy.provider_block.blocks)
    return _row(provider_block.NAME, policy.provider_block.rule, f"everything from {names}")


def _dno(message: pb.Policy, policy: Policy) -> Row:
    if policy.dno is None:
        return _idle(do_not_originate.NAME, message.HasField("do_not_originate"), message.do_not_originate.mode, "")
    what = [f"{name} ({dno_list.version})" for name, dno_list in policy.dno.lists]
    if policy.dno.refuse_invalid:
        what.append("numbers that the plan does not allow")
    return _row(do_not_originate.NAME, policy.dno.rule, ", ".join(what) or "nothing: no lists, invalid numbers allowed")


def _caller_id(message: pb.Policy, policy: Policy) -> Row:
    spec = policy.caller_id
    if spec is None:
        present = message.HasField("caller_id_authorisation")
        return _idle(caller_id.NAME, present, message.caller_id_authorisation.mode, "no customer has numbers")
    warned = f"after {_count(spec.warn_first, 'warning')} in {spec.period:g} s" if spec.warn_first else "at once"
    suspended = f", and everything for {spec.suspend:g} s" if spec.suspend else ""
    what = f"other numbers than their own, of {_count(len(spec.inventory), 'customer')}, {warned}{suspended}"
    return _row(caller_id.NAME, spec.rule, what)


def _limits(message: pb.Policy, policy: Policy) -> list[Row]:
    specs = {spec.name: spec for spec in policy.limits}
    return [
        _row(limit.name, specs[limit.name].rule, _limit(specs[limit.name]))
        if limit.name in specs
        else (limit.name, OFF, "", "")
        for limit in message.limits
    ]


def _limit(spec: LimitSpec) -> str:
    parts = []
    if spec.rate is not None:
        parts.append(f"over {_count(spec.rate.count, 'attempt')} in {spec.rate.window:g} s, burst {spec.rate.burst:g}")
    if spec.sessions:
        parts.append(f"over {_count(spec.sessions, 'call')} in progress")
    by = "in all" if spec.scope.value == "global" else f"by {spec.scope.value}"
    chosen = sorted({*spec.trunks, *spec.customers, *spec.called_prefixes, *spec.attestations})
    return f"{by}{' ' + ', '.join(chosen) if chosen else ''}: {'; '.join(parts)}"


def _identity(message: pb.Policy, policy: Policy) -> Row:
    spec = policy.identity
    if spec is None:
        return _idle(identity.NAME, message.HasField("identity"), message.identity.mode, "")
    refused = {f: h.answer for f, h in spec.handling.items() if h.answer is not None}
    what = ", ".join(refused) or "nothing"
    if spec.required_trunks and Failure.MISSING not in refused:
        what += f"; missing ones on {', '.join(sorted(spec.required_trunks))}"
    told = [word for word, on in (("verstat", spec.mark), ("Reason", spec.reason)) if on]
    waits = f"a call waits {spec.wait:g} s at most for a certificate"
    answers = dict.fromkeys(str(answer) for answer in refused.values())
    return (
        identity.NAME,
        spec.mode.value,
        f"refuses: {what}; tells: {', '.join(told) or 'nothing'}; {waits}",
        ", ".join(answers),
    )


def _signing(message: pb.Policy, policy: Policy) -> Row:
    spec = policy.signing
    if spec is None:
        return _idle("signing", message.HasField("signing"), message.signing.mode, "")
    parts = ["customers' calls, A with a number of their own, else B"]
    if spec.gateway_trunks:
        parts.append(f"C without Identity from {', '.join(sorted(spec.gateway_trunks))}")
    if spec.divert:
        parts.append("div where a customer sends a call on")
    if spec.exempt_trunks:
        parts.append(f"not from {', '.join(sorted(spec.exempt_trunks))}")
    return "signing", spec.mode.value, f"signs: {'; '.join(parts)}", ""


def _subscriber_lists(message: pb.Policy, policy: Policy) -> Row:
    spec = policy.subscriber_lists
    if spec is None:
        present = message.HasField("subscriber_lists")
        return _idle(subscriber_list.NAME, present, message.subscriber_lists.mode, "no lists")
    return _row(subscriber_list.NAME, spec.rule, f"unwanted callers of {_count(len(spec.unwanted), 'number')}")


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _row(name: str, rule: RuleSpec, what: str) -> Row:
    headers = "".join(f", {header}: {value}" for header, value in rule.answer.headers)
    return name, rule.mode.value, what, f"{rule.answer}{headers}"


def _idle(name: str, present: bool, mode: "pb.Mode", why: str) -> Row:
    if not present:
        return name, OFF, NOT_THERE, ""
    return (name, OFF, "", "") if mode == pb.MODE_OFF else (name, "idle", why, "")
