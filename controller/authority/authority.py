"""The authority of a fleet: who becomes a member, who somebody is, whose word counts.

Joins keys (roots.py), certificates (issuer.py) and the store. Knows no gRPC. Every method that takes `when` may raise
StoreError, too.
"""

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.model import ConfigError
from controller.authority import roots, tokens
from controller.authority.issuer import Issuer
from controller.authority.names import read_name
from controller.authority.requests import key_sha256, read_request
from controller.authority.roll import Roll
from controller.authority.settings import AuthoritySettings
from controller.authority.signer import ArtifactSigner, key_id_of
from controller.errors import Denied, Invalid, StoreError, Unauthenticated
from controller.model import Act, EnrolmentToken, Operator, Peer, PeerKind, Role
from controller.names import name_fault
from controller.store import Store
from controller.store.authorities import OWN
from controller.store.enrolment import Claim

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
TOKEN_SECONDS: Final = HOUR
"""The longest that an enrolment token is good."""

OPERATOR_SECONDS: Final = 366 * DAY
OPERATOR_DEFAULT: Final = 90 * DAY
OPERATOR_CERTIFICATE: Final = 30 * DAY
SERVER_SECONDS: Final = 7 * DAY
"""Agents have no way to ask for the controller's certificate to be renewed: it outlasts a long week-end."""

SWEEP_SECONDS: Final = HOUR
ENDING_SECONDS: Final = 60 * DAY
KEY_MAX: Final = 128
"""Characters of an idempotency key."""


@dataclass(frozen=True, slots=True)
class EnrolmentRequest:
    """What an agent sends to join. `certificate_request` is PKCS #10 in DER."""

    token: str
    certificate_request: bytes
    instance_uid: str
    idempotency_key: str
    hostname: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate with its issuers, leaf first, without the root; whom to trust; who signs lists. All DER."""

    chain: tuple[bytes, ...]
    trust_bundle: tuple[bytes, ...]
    not_after: float
    artifact_keys: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Enrolled:
    """`again`: the same as before, because the answer was lost."""

    agent_id: str
    credentials: Credentials
    again: bool


@dataclass(frozen=True, slots=True)
class KeyedCertificate:
    """A certificate with its issuers up to the root, and its key; both PEM."""

    key_pem: bytes
    chain_pem: bytes
    not_after: float


class Authority:
    """Construction does nothing; `open` begins. `controller_id` names this controller in its certificates."""

    name: Final = "authority"

    def __init__(self, settings: AuthoritySettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._roll = Roll(store)
        self._issuer: Issuer | None = None
        self._signer: ArtifactSigner | None = None
        self._trusted: tuple[x509.Certificate, ...] = ()
        self._enrolled = 0
        self._renewed = 0

    # --- beginning

    async def open(self, when: float) -> None:
        """Find keys and certificates, or make them at the first start. Raises ConfigError, StoreError."""
        if fault := name_fault(self._store.controller_id):
            raise ConfigError("controller.id", fault)
        issuer = await self._own_issuer(when) if self._settings.certificate is None else await self._external(when)
        # Agents that have certificates of the authority before this one can still come, and renew.
        before = [x509.load_der_x509_certificate(der) for der in await self._store.certificates.known_authorities()]
        others = (root for root in before if root != issuer.root and root.not_valid_after_utc.timestamp() > when)
        self._trusted = (issuer.root, *others)
        self._issuer = issuer
        self._signer = await self._open_signer(when)
        await self._roll.refresh(when)

    async def _own_issuer(self, when: float) -> Issuer:
        certificates, settings = self._store.certificates, self._settings
        known = await certificates.known_authority(OWN)
        key = await asyncio.to_thread(roots.open_key, settings, known)
        offered = await asyncio.to_thread(roots.own_certificate, settings, key, known, when)
        # Another controller may have been first; then its certificate counts, and needs its key.
        known = await certificates.authority(OWN, offered, when)
        known = await asyncio.to_thread(roots.own_certificate, settings, key, known, when)
        await asyncio.to_thread(roots.save_certificate, settings, known)
        return Issuer(settings.trust_domain, (x509.load_der_x509_certificate(known),), key)

    async def _external(self, when: float) -> Issuer:
        issuer = await asyncio.to_thread(roots.external_issuer, self._settings, when)
        root = issuer.root.public_bytes(Encoding.DER)
        await self._store.certificates.authority(hashlib.sha256(root).hexdigest(), root, when)
        return issuer

    async def _open_signer(self, when: float) -> ArtifactSigner:
        known = await self._store.certificates.known_artifact_keys()
        key = await asyncio.to_thread(roots.open_artifact_key, self._settings, known=bool(known))
        public_key = key.public_key().public_bytes_raw()
        if key_id_of(public_key) not in known:
            known = await self._store.certificates.add_artifact_key(key_id_of(public_key), public_key, when)
        return ArtifactSigner(key, known)

    async def watch(self, clock: Callable[[], float]) -> None:
        """Hear of what is revoked, and let go of what ended long ago, until cancelled. `clock` is epoch seconds."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._roll.watch(clock))
            group.create_task(self._sweep(clock))

    async def _sweep(self, clock: Callable[[], float]) -> None:
        while True:
            with contextlib.suppress(StoreError):  # next time
                await self._store.certificates.sweep(clock())
                await self._store.access.sweep(clock())
            await asyncio.sleep(SWEEP_SECONDS)

    # --- what it is known by

    @property
    def trust_domain(self) -> str:
        return self._settings.trust_domain

    @property
    def trust_bundle(self) -> tuple[bytes, ...]:
        """Roots of everybody's certificates, DER; the one that issues now comes first."""
        return tuple(root.public_bytes(Encoding.DER) for root in self._trusted)

    @property
    def sha256(self) -> str:
        """Of the root that issues now, hexadecimal: what an agent compares at its first contact."""
        return hashlib.sha256(self.trust_bundle[0]).hexdigest()

    @property
    def artifact_signer(self) -> ArtifactSigner:
        assert self._signer is not None
        return self._signer

    # --- members

    async def enrol(self, request: EnrolmentRequest, when: float) -> Enrolled:
        """Trade a token for a name and a certificate.

        Raises Unauthenticated (the token), Invalid (anything else in the request), Conflict (this installation is an
        agent already), Denied (the agent is revoked).
        """
        secret = tokens.read(tokens.ENROLMENT, request.token)
        key = read_request(request.certificate_request)
        instance_uid = _read_uid(request.instance_uid)
        if not 0 < len(request.idempotency_key) <= KEY_MAX:
            raise Invalid("idempotency_key", f"must have 1 to {KEY_MAX} characters")
        words = (request.idempotency_key, key_sha256(key).hex(), instance_uid)
        fingerprint = hashlib.sha256("\0".join(words).encode("utf-8", "replace")).digest()
        claim = Claim(secret, fingerprint, instance_uid, request.hostname, request.version)
        issuer, seconds = self._issuing, self._settings.hours * HOUR
        redeemed = await self._store.enrolment.redeem(
            claim, lambda name: issuer.issue(PeerKind.AGENT, name, key, seconds, when), when
        )
        self._enrolled += 1
        return Enrolled(redeemed.agent_id, self._credentials(redeemed.certificate), redeemed.again)

    async def renew(self, peer: Peer, certificate_request: bytes, instance_uid: str, when: float) -> Credentials:
        """The next certificate of an agent that has a good one. Raises Invalid, Denied, Busy."""
        if peer.kind is not PeerKind.AGENT:
            raise Denied("only agents renew their certificates here")
        key = read_request(certificate_request)
        noted, der = self._issuing.issue(PeerKind.AGENT, peer.name, key, self._settings.hours * HOUR, when)
        await self._store.certificates.renew(noted, _read_uid(instance_uid))
        self._renewed += 1
        return self._credentials(der)

    async def create_token(
        self, act: Act, valid_for: float | None, note: str, agent_id: str, when: float
    ) -> tuple[EnrolmentToken, str]:
        """A token for one agent (`agent_id` "": a new one), and its text, which is nowhere else. None: an hour.

        Raises Invalid; NotFound and Conflict for the agent.
        """
        seconds = TOKEN_SECONDS if valid_for is None else valid_for
        if not 0 < seconds <= TOKEN_SECONDS:
            raise Invalid("valid_for", "must be more than nothing and at most an hour")
        text, secret = tokens.make(tokens.ENROLMENT)
        token = EnrolmentToken(secret.id, note, act.actor, when, when + seconds, agent_id)
        await self._store.access.add_token(token, secret, act)
        return token, text

    async def create_operator(
        self, act: Act, name: str, role: Role, valid_for: float | None, when: float
    ) -> tuple[Operator, str]:
        """An operator, and the text of the login token, which is nowhere else. None: 90 days.

        Raises Invalid, Conflict.
        """
        seconds = OPERATOR_DEFAULT if valid_for is None else valid_for
        if not 0 < seconds <= OPERATOR_SECONDS:
            raise Invalid("valid_for", "must be more than nothing and at most 366 days")
        text, secret = tokens.make(tokens.LOGIN)
        operator = Operator(name, role, act.actor, when, when + seconds)
        await self._store.access.add_operator(operator, secret, act)
        return operator, text

    async def operator_certificate(self, act: Act, name: str, certificate_request: bytes, when: float) -> Credentials:
        """A certificate for an operator instead of the login token; good for 30 days, and as long as the operator.

        Raises Invalid, Busy; Denied when there is no such operator.
        """
        key = read_request(certificate_request)
        until = await self._roll.operator_until(name, when)
        noted, der = self._issuing.issue(PeerKind.OPERATOR, name, key, min(OPERATOR_CERTIFICATE, until - when), when)
        await self._store.certificates.issue(noted, act)
        return self._credentials(der)

    async def server_identity(self, hosts: Sequence[str], when: float) -> KeyedCertificate:
        """A new key and certificate for this controller's servers, and for asking other ones. Raises ConfigError."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = self._store.controller_id
        try:
            noted, der = self._issuing.issue(
                PeerKind.CONTROLLER, name, key.public_key(), SERVER_SECONDS, when, tuple(dict.fromkeys(hosts))
            )
        except ValueError as error:
            raise ConfigError("listen.names", f"one is no name of a host: {error}") from None
        await self._store.certificates.issue(noted)
        chain = (x509.load_der_x509_certificate(der), *self._issuing.chain)
        return KeyedCertificate(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain),
            noted.not_after,
        )

    # --- who somebody is

    async def peer(self, certificate_pem: bytes, when: float) -> Peer:
        """The holder of a certificate that TLS has verified against `trust_bundle`. Raises Unauthenticated, Denied."""
        named = read_name(certificate_pem)
        if named.trust_domain != self.trust_domain:
            raise Unauthenticated("the certificate has no name of this fleet")
        if not named.not_before <= when < named.not_after:
            raise Unauthenticated("the certificate has ended, or not begun")
        return await self._roll.admit(named)

    async def login(self, token: str, when: float) -> Peer:
        """The operator with this login token. Raises Unauthenticated."""
        return await self._roll.login(token, when)

    def is_cut(self, peer: Peer) -> bool:
        """Whether it was revoked since, or has another role now; from memory, half a second old at most."""
        return self._roll.is_cut(peer)

    # --- how it is

    def health(self, when: float) -> tuple[bool, str]:
        """Not well when the authority itself ends soon, for that takes people time."""
        days = (self._issuing.not_after - when) / DAY
        return days * DAY > ENDING_SECONDS, f"the authority is good for {days:.0f} days"

    def counters(self) -> dict[str, int]:
        """Since the start of the process."""
        return {"authority_enrolled": self._enrolled, "authority_renewed": self._renewed}

    @property
    def _issuing(self) -> Issuer:
        assert self._issuer is not None
        return self._issuer

    def _credentials(self, der: bytes) -> Credentials:
        end = x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp()
        keys = dict(self.artifact_signer.public_keys)
        return Credentials((der, *self._issuing.between), self.trust_bundle, end, keys)


def _read_uid(text: str) -> str:
    """In the one spelling that is stored. Raises Invalid."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise Invalid("instance_uid", "must be a UUID") from None
