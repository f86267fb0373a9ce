"""Compiles what a policy says of caller-ID authentication: verification ([identity]) and signing ([signing]).

Part of `agent.policy.compile`; knows those two sections, and trunks and customers by their names alone.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from agent.identity.model import RESPONSES, Failure, Verstat
from agent.model import Answer, Category
from agent.numbers.patterns import NumberPatterns
from agent.policy.compile_parts import IDENTIFIER, Parts, default_country
from agent.policy.emergency import ALWAYS
from agent.policy.policy import Handling, IdentitySpec, Mode, SigningSpec
from agent.policy.refusals import answer_for
from agent.policy.trunks import UNKNOWN
from sbcedge.policy.v1 import policy_pb2 as pb

# RFC 8224 6.2.2 recommends 60 s. Below 1 s no clock is right; ten minutes leave a stolen token that long to be used.
FRESHNESS: Final = 60.0
FRESHNESS_BOUNDS: Final = (1.0, 600.0)
# A caller hears nothing while a call waits. Below 0.05 s no certificate comes; 5 s is where SBCs give up on a hook.
WAIT: Final = 1.0
WAIT_BOUNDS: Final = (0.05, 5.0)

# Of each kind: one for each country whose calls are verified.
LISTS_MAX: Final = 16

# Nobody proved anything wrong: there is nothing to verify, or we could not. A replayed token is authentic, and a call
# that another route carries a second time shows the same one: it is neither vouched for nor accused.
TOLD_AS_NONE: Final = frozenset({Failure.MISSING, Failure.UNREACHABLE, Failure.REPLAYED})

FAILURES: Final = {
    pb.FAILURE_CLASS_MISSING: Failure.MISSING,
    pb.FAILURE_CLASS_STALE: Failure.STALE,
    pb.FAILURE_CLASS_INFO: Failure.INFO,
    pb.FAILURE_CLASS_UNREACHABLE: Failure.UNREACHABLE,
    pb.FAILURE_CLASS_CREDENTIAL: Failure.CREDENTIAL,
    pb.FAILURE_CLASS_INVALID: Failure.INVALID,
    pb.FAILURE_CLASS_MISMATCH: Failure.MISMATCH,
    pb.FAILURE_CLASS_REPLAYED: Failure.REPLAYED,
}
VERSTATS: Final = {
    pb.FAILURE_VERSTAT_FAILED: Verstat.FAILED,
    pb.FAILURE_VERSTAT_NONE: Verstat.NONE,
}
# RFC 9562 4: the form of a UUID, whatever its version.
UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


def default_verstat(failure: Failure) -> Verstat:
    """What the called network is told of this failure where the policy says nothing."""
    return Verstat.NONE if failure in TOLD_AS_NONE else Verstat.FAILED


def default_answer(failure: Failure) -> Answer:
    """How this failure is refused where the policy has it refused and names no answer (RFC 8224 6.2.2)."""
    return Answer(*RESPONSES[failure])


def compile_identity(parts: Parts, policy: pb.Policy) -> IdentitySpec | None:
    """The identity rule; None if it is absent or off. What is wrong is added to the errors of `parts`."""
    written = policy.identity
    mode = parts.mode(written.mode)
    allow = parts.allow | parts.allow_list(written.allow, "identity.allow")
    handling = _handling(parts, written)
    required = parts.trunks(written.required_trunks, "identity.required_trunks")
    freshness = parts.seconds(written.freshness_seconds, "identity.freshness_seconds", FRESHNESS, FRESHNESS_BOUNDS)
    wait = parts.seconds(written.wait_seconds, "identity.wait_seconds", WAIT, WAIT_BOUNDS)
    _check_lists(parts, written.trust_lists, "identity.trust_lists")
    _check_lists(parts, written.crls, "identity.crls")
    if mode is None or not policy.HasField("identity"):
        return None
    enforced = mode is Mode.ENFORCE
    mark = written.mark or not written.HasField("mark")
    return IdentitySpec(
        mode=mode,
        allow=allow,
        handling=handling,
        required_trunks=required,
        freshness=freshness,
        wait=wait,
        lenient=written.lenient,
        mark=enforced and mark,
        reason=enforced and written.reason,
    )


def _check_lists(parts: Parts, names: Sequence[str], field: str) -> None:
    """Names of lists of the controller; what they stand for comes with the offer of the policy."""
    if len(names) > LISTS_MAX:
        parts.wrong(field, f"at most {LISTS_MAX}")
    for i, name in enumerate(names):
        if IDENTIFIER.fullmatch(name) is None:
            parts.wrong(f"{field}[{i}]", "must be the name of a list of the controller, [a-zA-Z0-9._-]{1,64}")
        elif name in names[:i]:
            parts.wrong(f"{field}[{i}]", "stands there already")


def _handling(parts: Parts, written: pb.IdentityRule) -> dict[Failure, Handling]:
    """What is done about each failure: the defaults, and in their place what is written."""
    handling = {failure: Handling(default_verstat(failure), None) for failure in Failure}
    named: set[Failure] = set()
    for i, row in enumerate(written.failures):
        field = f"identity.failures[{i}]"
        failure = FAILURES.get(row.failure)
        if failure is None:
            parts.wrong(f"{field}.failure", "say which: " + ", ".join(Failure))
            continue
        if failure in named:
            parts.wrong(f"{field}.failure", f"{failure} has a row already")
        named.add(failure)
        verstat = VERSTATS.get(row.verstat, default_verstat(failure))
        handling[failure] = Handling(verstat, _refusal(parts, row, failure, field))
    return handling


def _refusal(parts: Parts, row: pb.IdentityFailure, failure: Failure, field: str) -> Answer | None:
    """The answer of a row that refuses."""
    if row.action != pb.FAILURE_ACTION_REFUSE:
        if row.HasField("answer"):
            parts.wrong(f"{field}.answer", 'goes with action = "refuse"; this one lets calls pass')
        return None
    return parts.checked(lambda: answer_for(Category.IDENTITY, row.answer, f"{field}.answer", RESPONSES[failure]))


def compile_signing(parts: Parts, policy: pb.Policy, inventory: Mapping[str, NumberPatterns]) -> SigningSpec | None:
    """The signing rule; None if it is absent or off. What is wrong is added to the errors of `parts`."""
    written = policy.signing
    mode = parts.mode(written.mode)
    gateways = parts.trunks(written.gateway_trunks, "signing.gateway_trunks")
    exempt = parts.trunks(written.exempt_trunks, "signing.exempt_trunks")
    for i, name in enumerate(written.exempt_trunks):
        if name in gateways:
            parts.wrong(f"signing.exempt_trunks[{i}]", f'"{name}" is among the gateway_trunks, whose calls are signed')
    origids = _origids(parts, written)
    if mode is None or not policy.HasField("signing"):
        return None
    return SigningSpec(
        mode=mode,
        gateway_trunks=gateways,
        exempt_trunks=exempt,
        inventory=inventory,
        countries={trunk.id: default_country(trunk) for trunk in policy.trunks},
        origids=origids,
        emergency=ALWAYS | frozenset(policy.emergency.numbers),
        divert=written.divert,
    )


def _origids(parts: Parts, written: pb.SigningRule) -> dict[str, str]:
    """The origid of each trunk whose calls share one."""
    origids: dict[str, str] = {}
    for i, origin in enumerate(written.origins):
        field = f"signing.origins[{i}]"
        parts.known(origin.trunk, {*parts.trunk_ids, UNKNOWN.id}, f"{field}.trunk", "trunks")
        if origin.trunk in origids:
            parts.wrong(f"{field}.trunk", f'"{origin.trunk}" has an origid already')
        if not UUID.fullmatch(origin.origid):
            parts.wrong(f"{field}.origid", "is no UUID like 8f4c1f5e-3f0a-4a57-9b0e-0c5f8d1a2b3c")
        origids[origin.trunk] = origin.origid.lower()
    return origids
