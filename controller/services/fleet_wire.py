"""Messages of sbcedge.fleet.v1 as our own types, and back. With wire.py the only place that knows both."""

from collections.abc import Iterable, Sequence

from google.protobuf.duration_pb2 import Duration

from agent.model import ConfigError, ConfigErrors
from controller.errors import Invalid
from controller.fleet.orders import ChangedCall
from controller.fleet.publishing import plan_of
from controller.model import (
    Agent,
    AuditEntry,
    EnrolmentToken,
    Offer,
    OfferPhase,
    Operator,
    PolicyInfo,
    Problem,
    Role,
    Rollout,
    RolloutPlan,
)
from controller.services.wire import phases, timestamp
from sbcedge.fleet.v1 import fleet_pb2 as pb

SECONDS_MAX = 10.0 * 366 * 86_400
PROBLEMS_MAX = 100


def seconds(duration: Duration, field: str) -> float:
    """Raises Invalid for what is negative, or beyond ten years."""
    value = duration.seconds + duration.nanos / 1e9
    if not 0 <= value <= SECONDS_MAX:
        raise Invalid(field, "must be a time from now on, and not for ever")
    return value


def plan_from(message: pb.RolloutPlan) -> RolloutPlan:
    """Raises Invalid."""
    soak = seconds(message.soak, "plan.soak") if message.HasField("soak") else None
    return plan_of(tuple(message.steps), soak, message.refusal_rise)


def agent_to(agent: Agent) -> pb.Agent:
    """As lists show it."""
    message = pb.Agent(
        id=agent.id,
        hostname=agent.hostname,
        version=agent.version,
        connected=agent.session is not None,
        last_seen=timestamp(agent.last_seen),
        revoked=agent.revoked,
        certificate_not_after=timestamp(agent.certificate_not_after),
        enrolled_at=timestamp(agent.enrolled_at),
        records_committed=agent.records_committed,
    )
    if agent.offer is not None:
        message.offered_generation = agent.offer.generation
        message.offer_phase = agent.offer.phase.word
        message.offer_problem = problem_text(agent.offer.problem)
    if agent.health is not None:
        message.active_generation = agent.health.active_generation
        message.trouble.update(agent.health.trouble)
        message.attempts_per_second = agent.health.attempts_per_second
        message.refused_share = agent.health.refused_share
        message.clock_offset_seconds = agent.health.clock_offset
    return message


def problem_text(problem: Problem | None) -> str:
    """On one line."""
    if problem is None:
        return ""
    return "; ".join(f"{f.field}: {f.description}" for f in problem.fields) or problem.message


def policy_to(info: PolicyInfo) -> pb.PolicyInfo:
    """Without content."""
    return pb.PolicyInfo(
        generation=info.generation,
        sha256=info.sha256,
        name=info.name,
        author=info.author,
        comment=info.comment,
        created_at=timestamp(info.created_at),
        rolled_back_to=info.rolled_back_to,
        rollout_state=info.rollout.value if info.rollout is not None else "",
    )


def field_problems(error: ConfigError) -> list[pb.FieldProblem]:
    """Every error of a document."""
    errors = error.errors if isinstance(error, ConfigErrors) else (error,)
    return [pb.FieldProblem(field=e.field, reason=e.reason) for e in errors]


def rollout_to(rollout: Rollout, offers: Sequence[Offer]) -> pb.Rollout:
    """With how far each agent came."""
    refused = [offer for offer in offers if offer.phase in (OfferPhase.REJECTED, OfferPhase.ROLLED_BACK)]
    return pb.Rollout(
        generation=rollout.generation,
        state=rollout.state.value,
        why=rollout.why,
        step=rollout.step,
        steps=rollout.plan.steps,
        phases=phases([offer.phase for offer in offers]),
        started_at=timestamp(rollout.started_at),
        problems=[
            pb.AgentProblem(agent_id=offer.agent_id, problem=problem_text(offer.problem))
            for offer in refused[:PROBLEMS_MAX]
        ],
    )


def changed_to(calls: Iterable[ChangedCall]) -> list[pb.ChangedCall]:
    return [pb.ChangedCall(agent_id=c.agent_id, call_id=c.call_id, before=c.before, after=c.after) for c in calls]


def token_to(token: EnrolmentToken) -> pb.EnrollmentToken:
    """Never the secret."""
    return pb.EnrollmentToken(
        id=token.id,
        note=token.note,
        expires_at=timestamp(token.expires_at),
        used_by=token.used_by,
        revoked=token.revoked_at is not None,
        agent_id=token.agent_id,
    )


def operator_to(operator: Operator) -> pb.Operator:
    return pb.Operator(
        name=operator.name,
        role=_ROLES[operator.role],
        revoked=operator.revoked_at is not None,
        expires_at=timestamp(operator.expires_at),
    )


_ROLES = {Role.VIEWER: pb.ROLE_VIEWER, Role.OPERATOR: pb.ROLE_OPERATOR, Role.ADMIN: pb.ROLE_ADMIN}


def role_from(role: int) -> Role:
    """Raises Invalid."""
    for ours, theirs in _ROLES.items():
        if theirs == role:
            return ours
    raise Invalid("role", "is missing or unknown")


def entry_to(entry: AuditEntry) -> pb.AuditEntry:
    message = pb.AuditEntry(
        sequence=entry.sequence, actor=entry.actor, action=entry.action, detail=entry.detail, hash=entry.hash
    )
    message.at.FromMicroseconds(entry.at)
    return message
