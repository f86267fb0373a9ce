"""Who is in and who is out, from memory: asked at every call, and for every live stream a few times a second.

Knows certificates and tokens only by what is stored of them. The store is read again when the topic moves; while it
cannot be read, what was known last holds: a fleet does not stand still because its database does.
"""

import asyncio
import hmac
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from controller.authority import tokens
from controller.authority.issuer import BACKDATED
from controller.authority.names import Named
from controller.errors import Denied, NotFound, StoreError, Unauthenticated
from controller.model import IssuedCertificate, Peer, PeerKind, Topic
from controller.store import Store
from controller.store.certificates import Login, Standing

KNOWN_MAX: Final = 50_000
"""Serial numbers that need not be looked up again: two of each agent of the largest fleet, and then some."""

RETRY_SECONDS: Final = 0.5
WAIT_SECONDS: Final = 3600.0
LOGIN: Final = "login-"


class Roll:
    """Of one controller. `refresh` before the first question."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._standing = Standing()
        self._seen = -1
        self._known: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._one = asyncio.Lock()

    async def refresh(self, when: float) -> None:
        """Read it if it has changed. Raises StoreError."""
        async with self._one:
            seen = (await self._store.changes.seen())[Topic.ACCESS]
            if seen != self._seen:
                self._standing = await self._store.certificates.standing(when)
                self._seen = seen

    async def watch(self, clock: Callable[[], float]) -> None:
        """Keep it fresh until cancelled."""
        while True:
            revisions = await self._store.changes.wait({topic: self._at(topic) for topic in Topic}, WAIT_SECONDS)
            if revisions[Topic.ACCESS] == self._seen:
                continue
            try:
                await self.refresh(clock())
            except StoreError:
                await asyncio.sleep(RETRY_SECONDS)

    def _at(self, topic: Topic) -> int:
        """What to wait beyond: other topics are of no interest here."""
        return self._seen if topic is Topic.ACCESS else 1 << 62

    async def admit(self, named: Named) -> Peer:
        """Whoever has this certificate, which is in its time. Raises Unauthenticated, Denied, StoreError."""
        await self._look_up(named)
        if named.serial in self._standing.revoked_serials:
            raise Denied(f"the certificate of {named.name} is revoked")
        if named.kind is PeerKind.AGENT and named.name in self._standing.revoked_agents:
            raise Denied(f"{named.name} is revoked")
        peer = Peer(named.kind, named.name, None, named.serial, named.not_after)
        if named.kind is not PeerKind.OPERATOR:
            return peer
        login = self._standing.roles.get(named.name)
        if login is None:
            raise Denied(f"there is no operator {named.name} any more")
        return Peer(named.kind, named.name, login.role, named.serial, min(named.not_after, login.expires_at))

    async def _look_up(self, named: Named) -> None:
        """That its issuer signed it TLS has checked; that it was us who had it signed is known by its number."""
        known = self._known.get(named.serial)
        if known is None:
            try:
                issued = await self._store.certificates.get(named.serial)
            except NotFound:
                issued = await self._adopted(named)
            known = self._known[named.serial] = (issued.kind, issued.name)
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        if known != (named.kind, named.name):
            raise Unauthenticated("the certificate is none of this fleet")

    async def _adopted(self, named: Named) -> IssuedCertificate:
        """One that we have forgotten by going back to a back-up. Raises Unauthenticated, Denied, StoreError."""
        begins = named.not_before + BACKDATED
        if named.kind is not PeerKind.AGENT or not any(
            backup - BACKDATED <= begins <= restored + BACKDATED for backup, restored in self._standing.forgotten
        ):
            raise Unauthenticated("the certificate is none of this fleet")
        noted = IssuedCertificate(
            named.serial, named.kind, named.name, named.not_before, named.not_after, b"", min(begins, named.not_after)
        )
        try:
            await self._store.certificates.adopt(noted)
        except NotFound:  # enrolled since then
            raise Unauthenticated(f"{named.name} is not known any more: enrol it again") from None
        return noted

    async def login(self, token: str, when: float) -> Peer:
        """The operator with this token. Raises Unauthenticated, StoreError."""
        secret = tokens.read(tokens.LOGIN, token)
        login = self._standing.logins.get(secret.id)
        if login is None:  # made a moment ago, at another controller
            await self.refresh(when)
            login = self._standing.logins.get(secret.id)
        # One answer for a wrong name and a wrong secret: whoever guesses learns nothing.
        if not hmac.compare_digest(login.secret_sha256 if login is not None else b"", secret.sha256):
            raise Unauthenticated("the token is not known")
        assert login is not None
        if login.expires_at <= when:
            raise Unauthenticated("the token has expired")
        return Peer(PeerKind.OPERATOR, login.name, login.role, f"{LOGIN}{secret.id}", login.expires_at)

    async def operator_until(self, name: str, when: float) -> float:
        """When this operator ends. Raises Denied: there is none, or it has ended; StoreError."""
        await self.refresh(when)
        login = self._standing.roles.get(name)
        if login is None or login.expires_at <= when:
            raise Denied(f"there is no operator {name}")
        return login.expires_at

    def is_cut(self, peer: Peer) -> bool:
        """Whether it may not go on as who it was admitted."""
        standing = self._standing
        if peer.serial in standing.revoked_serials:
            return True
        if peer.kind is PeerKind.AGENT:
            return peer.name in standing.revoked_agents
        if peer.kind is PeerKind.CONTROLLER:
            return False
        login: Login | None
        if peer.serial.startswith(LOGIN):
            login = standing.logins.get(peer.serial.removeprefix(LOGIN))
        else:
            login = standing.roles.get(peer.name)
        return login is None or (login.name, login.role) != (peer.name, peer.role)
