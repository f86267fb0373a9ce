"""Messages of sbcedge.control.v1 as our own types, and back. With fleet_wire.py the only place that knows both.

Whatever comes in is bounded here; what is out of bounds is Invalid, with the field.
"""

from collections.abc import Sequence
from typing import Final, assert_never

from google.protobuf.timestamp_pb2 import Timestamp

from controller.authority.authority import Credentials
from controller.errors import ControllerError, Invalid
from controller.fleet.messages import (
    CommandAnswer,
    FromAgent,
    Goodbye,
    HealthReport,
    Hello,
    Offering,
    OfferReport,
    Order,
    ToAgent,
    Welcome,
)
from controller.model import Artifact, FieldViolation, OfferPhase, Problem, UpgradeNote
from controller.services.statuses import status_of
from sbcedge.control.v1 import control_pb2 as pb

CAPABILITIES: Final = ("artifact.delta", "command.v1", "policy.v1", "quota.lease", "report.v1")
"""Of this controller."""

WORD_MAX: Final = 64
CAPABILITIES_MAX: Final = 64
REFUSED_MAX: Final = 1000
COMPONENTS_MAX: Final = 64
COUNTERS_MAX: Final = 512
TEXT_MAX: Final = 256
VIOLATIONS_MAX: Final = 100


def timestamp(when: float | None) -> Timestamp | None:
    """Epoch seconds; None stays absent."""
    if when is None:
        return None
    stamp = Timestamp()
    stamp.FromNanoseconds(round(when * 1e6) * 1000)
    return stamp


def epoch(stamp: Timestamp) -> float:
    """The other way."""
    return float(stamp.seconds) + stamp.nanos / 1e9


def problem_to(problem: Problem | None) -> pb.Problem | None:
    """None stays absent."""
    if problem is None:
        return None
    fields = [pb.FieldViolation(field=f.field, description=f.description) for f in problem.fields]
    return pb.Problem(code=problem.code, message=problem.message, fields=fields)


def problem_from(message: pb.Problem) -> Problem:
    """Bounded: it is the word of somebody else."""
    fields = (FieldViolation(f.field[:TEXT_MAX], f.description[:TEXT_MAX]) for f in message.fields[:VIOLATIONS_MAX])
    return Problem(message.code, message.message[: 4 * TEXT_MAX], tuple(fields))


# --- sessions


def from_agent(request: pb.OpenSessionRequest) -> FromAgent:
    """Raises Invalid."""
    match request.WhichOneof("message"):
        case "hello":
            return _hello(request.hello)
        case "offer_state":
            return _offer_report(request.offer_state)
        case "health":
            return _health(request.health)
        case "command_result":
            return _command_answer(request.command_result)
    raise Invalid("message", "is missing, or of a kind that this controller does not know")


def to_agent(message: ToAgent, controller_id: str, when: float) -> pb.OpenSessionResponse:
    """`when` is the present, epoch seconds."""
    response = pb.OpenSessionResponse()
    match message:
        case Welcome(health_interval):
            welcome = response.welcome
            welcome.controller_id = controller_id
            welcome.controller_time.CopyFrom(timestamp(when) or Timestamp())
            welcome.capabilities.extend(CAPABILITIES)
            welcome.health_interval.FromNanoseconds(int(health_interval * 1e9))
        case Offering():
            offer = response.offer
            offer.generation, offer.sha256, offer.policy = message.generation, message.sha256, message.document
            offer.artifacts.extend(manifest_to(artifact) for artifact in message.artifacts)
            offer.soak.FromNanoseconds(int(message.soak * 1e9))
        case Order():
            response.command.CopyFrom(_command(message))
        case Goodbye(error, retry_after, why):
            response.goodbye.problem.CopyFrom(_reason(error, why))
            response.goodbye.retry_after.FromNanoseconds(int(retry_after * 1e9))
        case _:
            assert_never(message)
    return response


def _reason(error: ControllerError | None, why: str) -> pb.Problem:
    if error is None:
        return pb.Problem(message=why)
    return problem_to(status_of(error)[1]) or pb.Problem()


def manifest_to(artifact: Artifact) -> pb.ArtifactManifest:
    """As it was signed, with the signature."""
    manifest = pb.ArtifactManifest.FromString(artifact.manifest)
    manifest.signature = artifact.signature
    return manifest


def _hello(message: pb.Hello) -> Hello:
    if len(message.capabilities) > CAPABILITIES_MAX or any(len(name) > WORD_MAX for name in message.capabilities):
        raise Invalid("hello.capabilities", f"at most {CAPABILITIES_MAX} of {WORD_MAX} characters")
    if len(message.rejected_generations) > REFUSED_MAX:
        raise Invalid("hello.rejected_generations", f"at most {REFUSED_MAX}: only the latest matter")
    return Hello(
        instance_uid=message.instance_uid,
        boot_id=message.boot_id,
        version=message.version[:WORD_MAX],
        capabilities=frozenset(message.capabilities),
        active_generation=message.active_generation,
        active_sha256=message.active_sha256[:32],
        agent_time=epoch(message.agent_time) if message.HasField("agent_time") else None,
        rejected=frozenset(message.rejected_generations),
    )


def _offer_report(message: pb.OfferState) -> OfferReport:
    if int(message.phase) not in {int(phase) for phase in OfferPhase}:
        raise Invalid("offer_state.phase", "is missing or unknown")
    return OfferReport(
        generation=_stored(message.generation, "offer_state.generation"),
        sha256=message.sha256,
        phase=OfferPhase(message.phase),
        problem=problem_from(message.problem) if message.HasField("problem") else None,
        active_generation=message.active_generation,
        active_sha256=message.active_sha256[:32],
    )


def _health(message: pb.HealthReport) -> HealthReport:
    if len(message.components) > COMPONENTS_MAX:
        raise Invalid("health.components", f"at most {COMPONENTS_MAX}")
    if len(message.counters) > COUNTERS_MAX:
        raise Invalid("health.counters", f"at most {COUNTERS_MAX}")
    if message.refusals > message.attempts:
        raise Invalid("health.refusals", "are more than the attempts")
    return HealthReport(
        at=epoch(message.at) if message.HasField("at") else None,
        trouble={c.component[:WORD_MAX]: c.detail[:TEXT_MAX] for c in message.components if not c.healthy},
        counters={name[:WORD_MAX]: count for name, count in message.counters.items()},
        active_generation=message.active_generation,
        active_sha256=message.active_sha256[:32],
        attempts=message.attempts,
        refusals=message.refusals,
        upgrade=_upgrade(message.upgrade) if message.HasField("upgrade") else None,
    )


def _upgrade(message: pb.UpgradeState) -> UpgradeNote:
    if int(message.phase) not in {int(phase) for phase in OfferPhase}:
        raise Invalid("health.upgrade.phase", "is missing or unknown")
    phase = OfferPhase(message.phase)
    return UpgradeNote(message.id[:WORD_MAX], message.version[:WORD_MAX], phase, message.why[: 4 * TEXT_MAX])


def _command_answer(message: pb.CommandResult) -> CommandAnswer:
    return CommandAnswer(
        id=message.id[:WORD_MAX],
        json=tuple(message.json),
        problem=problem_from(message.problem) if message.HasField("problem") else None,
        last=message.last,
    )


def _command(order: Order) -> pb.Command:
    command = pb.Command(id=order.id, expires_at=timestamp(order.expires_at))
    match order.word:
        case "status":
            command.get_status.SetInParent()
        case "explain":
            command.explain.call_id = order.argument
        case "tail":
            command.tail.duration.FromNanoseconds(int(order.duration * 1e9))
            command.tail.refused_only = order.refused_only
        case "drain":
            command.drain.SetInParent()
        case "diagnostics":
            command.collect_diagnostics.SetInParent()
        case "replay":
            command.replay_policy.policy = order.policy
            command.replay_policy.window.FromNanoseconds(int(order.duration * 1e9))
        case "upgrade":
            command.upgrade.version, _, command.upgrade.id = order.argument.partition(" ")
            command.upgrade.soak.FromNanoseconds(int(order.duration * 1e9))
        case _:
            raise AssertionError(order.word)
    return command


def _stored(value: int, field: str) -> int:
    """A number that fits into a column of the store."""
    if value >= 1 << 63:
        raise Invalid(field, "is larger than any that was given")
    return value


# --- identity


def credentials_to(credentials: Credentials) -> pb.Credentials:
    """Leaf first."""
    return pb.Credentials(
        certificate_chain=credentials.chain,
        trust_bundle=credentials.trust_bundle,
        not_after=timestamp(credentials.not_after),
        artifact_keys=credentials.artifact_keys,
    )


def sha256_from(value: bytes, field: str) -> bytes:
    """A hash. Raises Invalid."""
    if len(value) != 32:
        raise Invalid(field, "must be 32 bytes")
    return value


def phases(names: Sequence[OfferPhase]) -> dict[str, int]:
    """How many there are of each, by word."""
    return {phase.word: names.count(phase) for phase in OfferPhase if phase in names}
