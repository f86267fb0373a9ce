"""Between the messages of the contract and our own. The only place of agent/control that knows protobuf.

Whatever comes is turned into something, or ControllerError says what is wrong with it; what a message means is decided
elsewhere.
"""

from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from agent.control.errors import ControllerError, Trouble
from agent.control.messages import (
    Chunk,
    Command,
    CommandAnswer,
    Enrolled,
    FromAgent,
    Goodbye,
    HealthReport,
    Hello,
    Issued,
    Manifest,
    Offer,
    OfferReport,
    Problem,
    ToAgent,
    Welcome,
)
from agent.control.messages import FieldViolation as Violation
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.policy.v1 import policy_pb2

SOAK_SECONDS: Final = 30.0
SOAK_MAX: Final = 86_400.0
HEALTH_SECONDS: Final = 10.0
HEALTH_BOUNDS: Final = (0.2, 300.0)
"""Seconds between health reports that we agree to, whatever the controller says."""

RETRY_MAX: Final = 3600.0

COMMANDS: Final = {
    "get_status": "status",
    "explain": "explain",
    "tail": "tail",
    "drain": "drain",
    "collect_diagnostics": "diagnostics",
    "replay_policy": "replay",
    "upgrade": "upgrade",
}
"""Field of the contract's oneof to our word."""


# --- session


def to_wire(message: FromAgent) -> pb.OpenSessionRequest:
    """What the agent says."""
    match message:
        case Hello():
            return pb.OpenSessionRequest(hello=_hello(message))
        case OfferReport():
            return pb.OpenSessionRequest(offer_state=_report(message))
        case HealthReport():
            return pb.OpenSessionRequest(health=_health(message))
        case CommandAnswer(id, json, problem, last):
            answer = pb.CommandResult(id=id, json=json, last=last, problem=_problem(problem))
            return pb.OpenSessionRequest(command_result=answer)


def from_wire(message: pb.OpenSessionResponse) -> ToAgent | None:
    """What the controller says; None for what this version does not know."""
    match message.WhichOneof("message"):
        case "welcome":
            return _welcome(message.welcome)
        case "offer":
            return offer_of(message.offer)
        case "command":
            return _command(message.command)
        case "goodbye":
            goodbye = message.goodbye
            problem = _problem_of(goodbye.problem) if goodbye.HasField("problem") else None
            return Goodbye(problem, _seconds(goodbye.retry_after, RETRY_MAX))
        case _:
            return None


def offer_of(message: pb.ConfigOffer) -> Offer:
    """An offer, from the stream or from disk."""
    return Offer(
        generation=message.generation,
        sha256=message.sha256,
        policy=message.policy,
        manifests=tuple(_manifest(manifest) for manifest in message.artifacts),
        soak=_seconds(message.soak, SOAK_MAX) if message.HasField("soak") else SOAK_SECONDS,
    )


def offer_to(offer: Offer) -> bytes:
    """An offer as it is kept on disk. What a later version has put into a manifest stays in it."""
    message = pb.ConfigOffer(generation=offer.generation, sha256=offer.sha256, policy=offer.policy)
    message.soak.FromNanoseconds(round(offer.soak * 1e9))
    for manifest in offer.manifests:
        kept = message.artifacts.add()
        kept.ParseFromString(manifest.signed)
        kept.signature = manifest.signature
    return message.SerializeToString()


def offer_from(data: bytes) -> Offer:
    """The other way. Raises ValueError."""
    try:
        return offer_of(pb.ConfigOffer.FromString(data))
    except DecodeError:
        raise ValueError("holds no offer") from None


def policy_of(offer: Offer) -> policy_pb2.Policy:
    """The policy of an offer under its generation. Raises ValueError."""
    try:
        policy = policy_pb2.Policy.FromString(offer.policy)
    except DecodeError:
        raise ValueError("is no serialised Policy") from None
    policy.generation = offer.generation
    return policy


def _hello(hello: Hello) -> pb.Hello:
    message = pb.Hello(
        instance_uid=hello.instance_uid,
        boot_id=hello.boot_id,
        version=hello.version,
        capabilities=hello.capabilities,
        active_generation=hello.active.generation,
        active_sha256=hello.active.sha256,
        rejected_generations=hello.rejected,
    )
    _set_time(message.agent_time, hello.agent_time)
    return message


def _report(report: OfferReport) -> pb.OfferState:
    return pb.OfferState(
        generation=report.generation,
        sha256=report.sha256,
        phase=pb.OfferPhase.Name(report.phase),
        problem=_problem(report.problem),
        active_generation=report.active.generation,
        active_sha256=report.active.sha256,
    )


def _health(report: HealthReport) -> pb.HealthReport:
    message = pb.HealthReport(
        counters=dict(report.counters),
        active_generation=report.active.generation,
        active_sha256=report.active.sha256,
        attempts=report.attempts,
        refusals=report.refusals,
    )
    _set_time(message.at, report.at)
    for name, (healthy, detail) in report.components.items():
        message.components.add(component=name, healthy=healthy, detail=detail)
    if (upgrade := report.upgrade) is not None:
        phase = pb.OfferPhase.Name(upgrade.phase)
        state = pb.UpgradeState(id=upgrade.id, version=upgrade.version, phase=phase, why=upgrade.why)
        message.upgrade.CopyFrom(state)
    return message


def _welcome(welcome: pb.Welcome) -> Welcome:
    low, high = HEALTH_BOUNDS
    interval = _seconds(welcome.health_interval, high) if welcome.HasField("health_interval") else HEALTH_SECONDS
    return Welcome(
        controller_id=welcome.controller_id,
        controller_time=_time_of(welcome.controller_time) if welcome.HasField("controller_time") else None,
        capabilities=frozenset(welcome.capabilities),
        health_interval=max(interval, low),
    )


def _command(command: pb.Command) -> Command:
    field = command.WhichOneof("command") or ""
    return Command(
        id=command.id,
        word=COMMANDS.get(field, ""),
        expires_at=_time_of(command.expires_at) if command.HasField("expires_at") else None,
        argument={"explain": command.explain.call_id, "upgrade": command.upgrade.version}.get(field, ""),
        upgrade=command.upgrade.id if field == "upgrade" else "",
        duration={
            "tail": _seconds(command.tail.duration, SOAK_MAX),
            "replay_policy": _seconds(command.replay_policy.window, SOAK_MAX),
            "upgrade": _seconds(command.upgrade.soak, SOAK_MAX),
        }.get(field, 0.0),
        refused_only=field == "tail" and command.tail.refused_only,
        policy=command.replay_policy.policy if field == "replay_policy" else b"",
    )


# --- certificates


def enroll_request(
    token: str, certificate_request: bytes, instance_uid: str, idempotency_key: str, hostname: str, version: str
) -> pb.EnrollRequest:
    """The question of `sbc-agent enroll`."""
    return pb.EnrollRequest(
        token=token,
        certificate_request=certificate_request,
        instance_uid=instance_uid,
        idempotency_key=idempotency_key,
        hostname=hostname,
        version=version,
    )


def enrolled_of(response: pb.EnrollResponse) -> Enrolled:
    """Its answer. Raises ControllerError."""
    if not response.agent_id:
        raise ControllerError(Trouble.REFUSED, "the controller's answer has no name for this agent")
    return Enrolled(response.agent_id, _issued(response.credentials))


def renew_request(certificate_request: bytes, instance_uid: str) -> pb.RenewCertificateRequest:
    """The question for another certificate."""
    return pb.RenewCertificateRequest(certificate_request=certificate_request, instance_uid=instance_uid)


def renewed_of(response: pb.RenewCertificateResponse) -> Issued:
    """Its answer."""
    return _issued(response.credentials)


def _issued(credentials: pb.Credentials) -> Issued:
    return Issued(
        tuple(credentials.certificate_chain), tuple(credentials.trust_bundle), dict(credentials.artifact_keys)
    )


# --- artifacts


def fetch_request(sha256: bytes, offset: int, base_sha256: bytes) -> pb.FetchArtifactRequest:
    """From where on which artifact is wanted."""
    return pb.FetchArtifactRequest(sha256=sha256, offset=offset, base_sha256=base_sha256)


def chunk_of(response: pb.FetchArtifactResponse) -> Chunk:
    """A piece of it."""
    return Chunk(response.offset, response.data, response.crc32c, response.total_size, response.delta)


def _manifest(message: pb.ArtifactManifest) -> Manifest:
    signed = pb.ArtifactManifest()
    signed.CopyFrom(message)
    signed.ClearField("signature")
    return Manifest(
        kind=message.kind,
        name=message.name,
        generation=message.generation,
        sha256=message.sha256,
        size=message.size,
        format_version=message.format_version,
        not_after=_time_of(message.not_after) if message.HasField("not_after") else None,
        key_id=message.key_id,
        signature=message.signature,
        signed=signed.SerializeToString(deterministic=True),
    )


# --- pieces


def _problem(problem: Problem | None) -> pb.Problem | None:
    if problem is None:
        return None
    message = pb.Problem(code=problem.code, message=problem.message)
    for violation in problem.fields:
        message.fields.add(field=violation.field, description=violation.description)
    return message


def _problem_of(message: pb.Problem) -> Problem:
    return Problem(message.code, message.message, tuple(Violation(f.field, f.description) for f in message.fields))


def _set_time(stamp: Timestamp, when: float) -> None:
    """A clock that no calendar has (before 1, after 9999) sends none."""
    try:
        stamp.FromNanoseconds(int(when * 1e9))
    except (ValueError, OverflowError):
        stamp.Clear()


def _time_of(stamp: Timestamp) -> float:
    return stamp.seconds + stamp.nanos / 1e9


def _seconds(duration: Duration, most: float) -> float:
    """Between none and `most`."""
    return min(max(0.0, duration.seconds + duration.nanos / 1e9), most)
