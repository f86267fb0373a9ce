"""A controller that does as it is told: cuts, loses answers, lies and hangs at the step that a test names.

Real gRPC over real certificates on loopback, in threads of the test's process. What a controller should do is tested
with the real one; this one is for what must not hurt an agent.
"""

import datetime
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from agent.checksums import crc32c
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.control.v1 import control_pb2_grpc as pb_grpc
from sbcedge.policy.v1 import policy_pb2

PATIENCE = 20.0
DAY = 86_400.0
TOKEN = "good-token"

Context = Any


class LaboratoryAuthority:
    """Issues what a test asks for, also what is over already."""

    def __init__(self) -> None:
        self.backdated = 1.0  # seconds
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "laboratory")])
        self._name = name
        self.certificate = (
            _builder(name, name, self.key.public_key(), DAY * 30, self.backdated)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.der).hexdigest()

    def issue(self, key: Any, names: list[x509.GeneralName], lifetime: float) -> bytes:
        """DER."""
        made = (
            _builder(x509.Name([]), self._name, key, lifetime, self.backdated)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        return made.public_bytes(Encoding.DER)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Any, lifetime: float, backdated: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(seconds=backdated))
        .not_valid_after(now + datetime.timedelta(seconds=lifetime))
    )


@dataclass
class FakeSession:
    """One OpenSession: what was heard, and a way to say something."""

    hello: pb.Hello
    heard: list[pb.OpenSessionRequest] = field(default_factory=list)
    outgoing: "queue.Queue[pb.OpenSessionResponse | None]" = field(default_factory=queue.Queue)
    over: threading.Event = field(default_factory=threading.Event)

    def say(self, **message: Any) -> None:
        self.outgoing.put(pb.OpenSessionResponse(**message))

    def phases(self, generation: int) -> list[str]:
        """What was said of an offer, so far."""
        states = [m.offer_state for m in list(self.heard) if m.WhichOneof("message") == "offer_state"]
        return [pb.OfferPhase.Name(s.phase)[12:] for s in states if s.generation == generation]

    def report(self, generation: int, phase: str) -> pb.OfferState:
        """Wait for it."""
        state: pb.OfferState = wait(
            lambda: next(
                (
                    m.offer_state
                    for m in list(self.heard)
                    if m.WhichOneof("message") == "offer_state"
                    and m.offer_state.generation == generation
                    and pb.OfferPhase.Name(m.offer_state.phase) == f"OFFER_PHASE_{phase}"
                ),
                None,
            ),
            f"generation {generation} {phase}",
        )
        return state

    def answer(self) -> pb.CommandResult:
        """Of the first command that has one."""
        answer: pb.CommandResult = wait(
            lambda: next(
                (m.command_result for m in list(self.heard) if m.WhichOneof("message") == "command_result"), None
            ),
            "an answer",
        )
        return answer

    def health(self) -> pb.HealthReport:
        """The next report."""
        count = len(self.heard)
        report: pb.HealthReport = wait(
            lambda: next((m.health for m in self.heard[count:] if m.WhichOneof("message") == "health"), None), "health"
        )
        return report


class FakeController(
    pb_grpc.EnrollmentServiceServicer,
    pb_grpc.IdentityServiceServicer,
    pb_grpc.ControlServiceServicer,
    pb_grpc.ArtifactServiceServicer,
):
    """Listens from `with` on. Tests change its fields while it runs."""

    def __init__(self) -> None:
        self.authority = LaboratoryAuthority()
        self.signer = Ed25519PrivateKey.generate()
        self.lifetime = DAY
        self.lose_answers = 0
        self.issue_for_another_key = False
        self.questions: list[pb.EnrollRequest] = []
        self.renewals: list[pb.RenewCertificateRequest] = []
        self.sessions: list[FakeSession] = []
        self.on_heard: Callable[[FakeSession, pb.OpenSessionRequest], None] = lambda _session, _message: None
        self.refuse: grpc.StatusCode | None = None
        self.clock_offset = 0.0
        self.health_interval = 0.2
        self.artifacts: dict[bytes, bytes] = {}
        self.deltas: dict[tuple[bytes, bytes], bytes] = {}
        self.chunk = 64 << 10
        self.fetches: list[pb.FetchArtifactRequest] = []
        self.on_chunk: Callable[[Context, pb.FetchArtifactResponse], None] = lambda _context, _chunk: None
        self.address = self.open_address = ""
        self._answers: dict[str, pb.EnrollResponse] = {}
        self._servers: list[grpc.Server] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the ports that it had before."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]
        leaf = self.authority.issue(key.public_key(), names, DAY)
        chain = b"".join(_pem(der) for der in (leaf, self.authority.der))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.open_address = self._listen(self.open_address, grpc.ssl_server_credentials([(private, chain)]))
        mutual = grpc.ssl_server_credentials([(private, chain)], _pem(self.authority.der), require_client_auth=True)
        self.address = self._listen(self.address, mutual)

    def _listen(self, address: str, credentials: grpc.ServerCredentials) -> str:
        server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_EnrollmentServiceServicer_to_server(self, server)
        pb_grpc.add_IdentityServiceServicer_to_server(self, server)
        pb_grpc.add_ControlServiceServicer_to_server(self, server)
        pb_grpc.add_ArtifactServiceServicer_to_server(self, server)

        def bound() -> int | None:
            try:
                return int(server.add_secure_port(address or "127.0.0.1:0", credentials))
            except RuntimeError:  # the one before has not let go of it yet
                return None

        port = wait(bound, f"the port of {address}")
        server.start()
        self._servers.append(server)
        return f"127.0.0.1:{port}"

    def stop(self) -> None:
        """Cut everything, as a network does."""
        servers, self._servers = self._servers, []
        for session in self.sessions:
            session.outgoing.put(None)
            session.over.set()
        for server in servers:
            server.stop(0).wait(PATIENCE)

    # --- enrolment

    def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollResponse:
        self.questions.append(request)
        if request.token != TOKEN:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not known")
        answer = self._answers.get(request.idempotency_key)
        if answer is None:
            answer = pb.EnrollResponse(
                agent_id="agent-1", credentials=self._credentials(request.certificate_request, self.lifetime)
            )
            self._answers[request.idempotency_key] = answer
        if self.lose_answers:
            self.lose_answers -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
        return answer

    def RenewCertificate(self, request: pb.RenewCertificateRequest, context: Context) -> pb.RenewCertificateResponse:
        self.renewals.append(request)
        return pb.RenewCertificateResponse(credentials=self._credentials(request.certificate_request, self.lifetime))

    def _credentials(self, request: bytes, lifetime: float) -> pb.Credentials:
        key = x509.load_der_x509_csr(request).public_key()
        if self.issue_for_another_key:
            key = ec.generate_private_key(ec.SECP256R1()).public_key()
        name = x509.UniformResourceIdentifier("spiffe://sbc-edge/agent/agent-1")
        return pb.Credentials(
            certificate_chain=[self.authority.issue(key, [name], lifetime)],
            trust_bundle=[self.authority.der],
            artifact_keys={"k1": self.signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)},
        )

    # --- sessions

    def OpenSession(
        self, requests: Iterator[pb.OpenSessionRequest], context: Context
    ) -> Iterator[pb.OpenSessionResponse]:
        if self.refuse is not None:
            context.abort(self.refuse, "not you")
        session = FakeSession(next(requests).hello)
        welcome = pb.Welcome(controller_id="fake")
        welcome.controller_time.FromNanoseconds(int((time.time() + self.clock_offset) * 1e9))
        welcome.health_interval.FromNanoseconds(int(self.health_interval * 1e9))
        session.say(welcome=welcome)
        self.sessions.append(session)

        def listen() -> None:
            try:
                for message in requests:
                    session.heard.append(message)
                    self.on_heard(session, message)
            except grpc.RpcError:
                pass
            finally:
                session.outgoing.put(None)
                session.over.set()

        threading.Thread(target=listen, daemon=True).start()
        while (response := session.outgoing.get()) is not None:
            yield response

    def session(self, number: int = -1) -> FakeSession:
        """The latest that is open, or the one of this number (0 is the first), when there is one."""

        def look() -> FakeSession | None:
            if number >= 0:
                return self.sessions[number] if len(self.sessions) > number else None
            return self.sessions[-1] if self.sessions and not self.sessions[-1].over.is_set() else None

        session: FakeSession = wait(look, f"session {number}")
        return session

    # --- offers

    def offer(self, generation: int, policy: policy_pb2.Policy, soak: float = 0.0, **changes: Any) -> pb.ConfigOffer:
        """As the controller makes them: without a generation in the policy."""
        document = policy.SerializeToString()
        fields = {"sha256": hashlib.sha256(document).digest(), **changes}
        offer = pb.ConfigOffer(generation=generation, policy=document, **fields)
        offer.soak.FromNanoseconds(int(soak * 1e9))
        return offer

    def list_of(self, content: bytes, generation: int, name: str = "industry", **changes: Any) -> pb.ArtifactManifest:
        """A signed manifest of a list that is served from now on."""
        sha256 = hashlib.sha256(content).digest()
        self.artifacts[sha256] = content
        fields = {"kind": "dno", "size": len(content), "format_version": 1, "key_id": "k1", "sha256": sha256, **changes}
        signature = fields.pop("signature", None)
        manifest = pb.ArtifactManifest(name=name, generation=generation, **fields)
        manifest.signature = signature or self.signer.sign(manifest.SerializeToString(deterministic=True))
        return manifest

    def FetchArtifact(self, request: pb.FetchArtifactRequest, context: Context) -> Iterator[pb.FetchArtifactResponse]:
        self.fetches.append(request)
        delta = self.deltas.get((request.base_sha256, request.sha256))
        content = delta if delta is not None else self.artifacts.get(request.sha256)
        if content is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such list")
            return
        offset = request.offset
        if offset > len(content):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "offset: is beyond the end")
        while True:
            data = content[offset : offset + self.chunk]
            chunk = pb.FetchArtifactResponse(offset=offset, data=data, crc32c=crc32c(data))
            if offset == request.offset:
                chunk.total_size, chunk.delta = len(content), delta is not None
            self.on_chunk(context, chunk)
            yield chunk
            offset += len(data)
            if offset >= len(content):
                return


def wait(look: Callable[[], Any], what: str) -> Any:
    """What `look` finds, as soon as it finds something. AssertionError when it does not."""
    deadline = time.monotonic() + PATIENCE
    while (found := look()) is None or found is False:
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE:g} s in vain for {what}")
        time.sleep(0.005)
    return found


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
