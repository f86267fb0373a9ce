"""Readings as messages of sbcedge.admin.v1, and errors of documents likewise. The only place that makes them."""

from collections.abc import Mapping

from google.protobuf.json_format import MessageToJson

from agent.model import ConfigError, ConfigErrors
from agent.ops.metrics import epoch
from agent.ops.readings import Readings, rule_modes
from agent.policy.policy import LimitSpec, Mode, Policy, Scope
from agent.policy.trunks import Trunk
from sbcedge.admin.v1 import admin_pb2 as pb


def status_message(readings: Readings) -> pb.Status:
    """One look at everything."""
    service = readings.service
    policy, screening = service.policy, service.screening
    status = pb.Status(
        version=readings.version,
        policy_generation=policy.generation,
        policy_name=policy.name,
        draining=service.draining,
        counters=readings.counters(),
        policy_error=readings.changes.last_error,
    )
    status.started_at.FromNanoseconds(int(readings.started_at * 1e9))
    status.counters["sessions"] = screening.sessions.in_progress
    for table, count in screening.overflows.items():
        status.counters[f"overflows_{table}"] = count
    status.trunks.extend(_trunks(readings, policy))
    status.rules.extend(_rules(readings, policy))
    status.lists.extend(_lists(policy))
    for name, (healthy, detail) in readings.health().items():
        status.components.add(component=name, healthy=healthy, detail=detail)
    return status


def status_json(readings: Readings) -> str:
    """The same as one JSON object."""
    return MessageToJson(status_message(readings), preserving_proto_field_name=True, indent=None)


def field_errors(error: ConfigError) -> list[pb.FieldError]:
    """Every error of a document."""
    errors = error.errors if isinstance(error, ConfigErrors) else (error,)
    return [pb.FieldError(field=e.field, reason=e.reason) for e in errors]


def _trunks(readings: Readings, policy: Policy) -> list[pb.TrunkStatus]:
    """Every trunk of the policy, and those before it that had calls."""
    by_trunk = readings.service.tally.by_trunk
    known = {trunk.id: trunk for trunk in policy.addresses.trunks}
    counted = {name for name, _ in by_trunk} - known.keys()
    return [
        _trunk(trunk, policy, by_trunk, readings)
        for trunk in (*known.values(), *(Trunk(n, "", "", "", False) for n in sorted(counted)))
    ]


def _trunk(trunk: Trunk, policy: Policy, by_trunk: Mapping[tuple[str, str], int], readings: Readings) -> pb.TrunkStatus:
    allowed, refused, dropped = (by_trunk.get((trunk.id, action), 0) for action in ("allow", "refuse", "drop"))
    own = [limit for limit in policy.limits if _is_of(limit, trunk)]
    rates = [limit.rate.count / limit.rate.window for limit in own if limit.rate is not None]
    by_sessions = [limit for limit in own if limit.sessions]
    sessions = readings.service.screening.sessions
    return pb.TrunkStatus(
        trunk=trunk.id,
        attempts=allowed + refused + dropped,
        allowed=allowed,
        refused=refused,
        dropped=dropped,
        rate_limit=min(rates, default=0.0),
        sessions=max((sessions.count((limit.name, trunk.id)) for limit in by_sessions), default=0),
        session_limit=min((limit.sessions for limit in by_sessions), default=0),
    )


def _is_of(limit: LimitSpec, trunk: Trunk) -> bool:
    """Whether this limit counts the trunk's attempts by themselves, and enforces."""
    if limit.scope is not Scope.TRUNK or limit.rule.mode is not Mode.ENFORCE:
        return False
    chosen = limit.trunks or limit.customers
    return not chosen or trunk.id in limit.trunks or trunk.customer in limit.customers


def _rules(readings: Readings, policy: Policy) -> list[pb.RuleStatus]:
    """Every rule in its order, then those that have decided and are no more; no rule at all comes last."""
    by_rule = readings.service.tally.by_rule
    modes = dict(rule_modes(policy))
    for name, _ in by_rule:
        modes.setdefault(name, "off")
    modes.pop("", None)
    return [
        pb.RuleStatus(
            rule=name,
            mode=mode,
            refused=by_rule.get((name, "refuse"), 0),
            dropped=by_rule.get((name, "drop"), 0),
            shadow=by_rule.get((name, "shadow"), 0),
            allowed=by_rule.get((name, "allow"), 0),
        )
        for name, mode in modes.items()
    ]


def _lists(policy: Policy) -> list[pb.ListStatus]:
    lists = []
    for name, dno in policy.dno.lists if policy.dno is not None else ():
        manifest = dno.manifest
        shown = pb.ListStatus(name=name, version=manifest.version, numbers=manifest.counts.get("numbers", 0))
        created = epoch(manifest.created_at)
        if created is not None:
            shown.created_at.FromSeconds(int(created))
        lists.append(shown)
    return lists
