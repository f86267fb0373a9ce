"""Keeps the agent's certificate fresh, and finds out when an operator has enrolled it again. An edge.

A certificate is renewed at half of its life, with jitter; when that fails it is tried again until it succeeds. One
that has ended keeps nobody from screening: it is said, and `sbc-agent enroll` with a new token puts it right, without a
restart.

Its life is counted from when it came here, by this host's clock. Its own beginning says nothing of that: controllers
set it more than an hour back, for agents whose clocks are behind, and of a certificate of an hour that is over half.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from grpc import aio

from agent.control.backoff import Backoff
from agent.control.channels import Channels
from agent.control.credentials import CredentialFiles, Credentials, assemble, certificate_request, new_key
from agent.control.errors import ControllerError, Trouble, of_rpc
from agent.control.handshake import NONE, fault_of
from agent.control.wire import renew_request, renewed_of
from agent.ops.log import Log
from sbcedge.control.v1 import control_pb2_grpc

HALF: Final = 0.5
JITTER: Final = 0.1
"""Of its life: a fleet that was enrolled on one day renews over hours."""

LATE: Final = 0.25
"""Of its life that is left when a renewal that does not succeed becomes trouble."""

LEAST_SECONDS: Final = 5.0
"""From one certificate to the next, at least. Where the authority itself is about to end, what it issues is shorter
each time, and half of that would come sooner and sooner."""

LOOK_SECONDS: Final = 2.0
RENEW_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Life:
    """Of a certificate, as this host has it: when it came, and when it ends; epoch seconds by this host's clock."""

    began: float
    ends: float

    @classmethod
    def of(cls, credentials: Credentials, came: float) -> "Life":
        """`came` is what is known of when: never before the certificate began."""
        return cls(max(came, credentials.not_before), credentials.not_after)

    def is_due(self, share: float, now: float) -> bool:
        """Whether so much of it is over, but not all."""
        return self.began + max(share * (self.ends - self.began), LEAST_SECONDS) <= now < self.ends

    def is_late(self, now: float) -> bool:
        """Whether it should have been renewed long ago."""
        return self.ends - now < LATE * (self.ends - self.began)


class Renewal:
    """`clock` is epoch seconds, `chance` gives numbers from 0 to below 1."""

    def __init__(
        self,
        files: CredentialFiles,
        channels: Channels,
        log: Log,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.renewed = 0
        self.credentials: Credentials | None = None
        self._files = files
        self._channels = channels
        self._log = log
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._stamp: tuple[int, int] | None = None
        self._life = Life(0.0, 0.0)
        self._share = HALF
        self._not_before = 0.0  # monotonic: when it may be tried again
        self._backoff = Backoff(chance)
        self._why = ""
        self._fault = NONE

    async def look(self) -> bool:
        """Read the files if they changed; True: they did, since the last look. Never raises."""
        stamp = await asyncio.to_thread(self._files.stamp)
        if stamp == self._stamp:
            return False
        first, self._stamp = self._stamp is None, stamp
        try:
            credentials = await asyncio.to_thread(self._files.load)
        except ControllerError as error:
            self._log.error("cannot use the certificate", error=error.reason)
            self._take(None, 0.0, error.reason)
            return True
        why_not = "" if credentials is not None else "not enrolled: run `sbc-agent enroll`"
        came = min(stamp[0] / 1e9, self._clock())  # files of a time to come were written by a clock that was ahead
        self._take(credentials, came, why_not)
        if not first and credentials is not None:
            self._log.info("certificate taken into use", agent=credentials.agent_id, until=day(credentials.not_after))
        return True

    def _take(self, credentials: Credentials | None, came: float, why_not: str = "") -> None:
        self.credentials = credentials
        if credentials is not None:
            self._life = Life.of(credentials, came)
        self._fault = NONE
        self._share = HALF + JITTER * (self._chance() - 0.5)
        self._not_before = 0.0
        self._backoff = Backoff(self._chance)
        self._why = ""
        self._channels.take(credentials, why_not)

    def artifact_keys(self) -> Mapping[str, bytes]:
        """Who may sign lists."""
        return {} if self.credentials is None else self.credentials.artifact_keys

    def trouble(self) -> str:
        """ "" the certificate is good, and will be."""
        credentials = self.credentials
        if credentials is None:
            return ""  # whoever opens a channel says why
        if (ended := self.ended()) and self._fault.clocks:
            return f"{ended} by this host's clock; it screens by what it has"
        if ended:
            return f"{ended}: enrol it again; it screens by what it has"
        if self._why and self._life.is_late(self._clock()):
            return f"its certificate ends at {day(credentials.not_after)} and is not renewed: {self._why}"
        return ""

    def ended(self) -> str:
        """ "" as long as the certificate is good, by our clock."""
        credentials = self.credentials
        if credentials is None or self._clock() < credentials.not_after:
            return ""
        return f"its certificate ended at {day(credentials.not_after)}"

    async def shake(self) -> str:
        """Why nobody can be reached, where it is the handshake; "" where it is not. One connection; never raises."""
        credentials, self._fault = self.credentials, NONE
        if credentials is not None:
            address, identity = self._channels.address, self._files.identity
            self._fault = await asyncio.to_thread(fault_of, address, identity, credentials.trust, time.time())
        return self._fault.words

    def due(self) -> bool:
        """Whether it is time to renew."""
        if self.credentials is None or self._monotonic() < self._not_before:
            return False
        return self._life.is_due(self._share, self._clock())

    async def renew(self) -> None:
        """Ask for a new one, for a new key. Never raises."""
        credentials = self.credentials
        assert credentials is not None
        try:
            renewed = await self._ask(credentials)
            await asyncio.to_thread(self._files.save, renewed)
        except ControllerError as error:
            self._failed(error, error.reason)
        except OSError as error:
            self._failed(ControllerError(Trouble.AWAY, str(error)), f"{error.filename}: {error.strerror}")
        else:
            self.renewed += 1
            self._stamp = await asyncio.to_thread(self._files.stamp)
            self._take(renewed, self._clock())
            self._log.info("certificate renewed", agent=renewed.agent_id, until=day(renewed.not_after))

    async def _ask(self, credentials: Credentials) -> Credentials:
        key = new_key()
        request = renew_request(certificate_request(key), credentials.instance_uid)
        async with self._channels.open("identity") as channel:
            try:
                stub = control_pb2_grpc.IdentityServiceStub(channel)
                response = await stub.RenewCertificate(request, timeout=RENEW_SECONDS)
            except aio.AioRpcError as error:
                raise of_rpc(error) from None
        return assemble(credentials.agent_id, credentials.instance_uid, key, renewed_of(response))

    def _failed(self, error: ControllerError, why: str) -> None:
        if why != self._why:
            self._log.warning("the certificate is not renewed, will be tried again", error=why)
        self._why = why
        now = self._monotonic()
        self._not_before = now + self._backoff.failed(error, now)


def day(when: float) -> str:
    """ "2026-01-31T12:00:00Z"."""
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
