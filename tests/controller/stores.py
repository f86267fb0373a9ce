"""Stores with something in them, for tests."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from controller.model import Act, EnrolmentToken, IssuedCertificate, PeerKind, PolicyDraft, RolloutPlan, Session
from controller.store import Store, StoreSettings
from controller.store.access import Secret
from controller.store.enrolment import Claim

T = TypeVar("T")

WHEN = 1_800_000_000.0
"""The present, in tests."""

HOUR = 3600.0
JANE = Act("operator:jane", "test")
PLAN = RolloutPlan((0.1, 1.0), 30.0, 0.2)


@asynccontextmanager
async def opened(settings: StoreSettings, controller_id: str = "c1", when: float = WHEN) -> AsyncIterator[Store]:
    """A store that is open for a while."""
    store = Store(settings, controller_id, f"{controller_id}.example.net:7443")
    await store.open(when)
    try:
        yield store
    finally:
        await store.close()


def with_store(settings: StoreSettings, work: Callable[[Store], Awaitable[T]]) -> T:
    """Run this with an open store."""

    async def main() -> T:
        async with opened(settings) as store:
            return await work(store)

    return asyncio.run(main())


async def enrol(store: Store, number: int = 1, when: float = WHEN) -> str:
    """The name of a new agent, as a token and a certificate make one."""
    secret = Secret(f"{number:012x}", hashlib.sha256(b"secret").digest())
    await store.access.add_token(EnrolmentToken(secret.id, "", "operator:jane", when, when + HOUR), secret, JANE)
    claim = Claim(secret, hashlib.sha256(b"request").digest(), uid(number), f"host-{number}", "0.1.0")

    def issue(name: str) -> tuple[IssuedCertificate, bytes]:
        return certificate(name, f"{number:x}", when), b"certificate of " + name.encode()

    return (await store.enrolment.redeem(claim, issue, when)).agent_id


def certificate(name: str, serial: str, when: float = WHEN, kind: PeerKind = PeerKind.AGENT) -> IssuedCertificate:
    """Of a day."""
    return IssuedCertificate(serial, kind, name, when - HOUR, when + 24 * HOUR, bytes(32), when)


def uid(number: int) -> str:
    """An instance uid."""
    return f"00000000-0000-4000-8000-{number:012d}"


def session(agent_id: str, number: int = 1, boot: str = "boot-1", **changed: object) -> Session:
    """As an agent's greeting makes one."""
    values: dict[str, object] = {
        "id": f"session-{boot}",
        "agent_id": agent_id,
        "controller_id": "c1",
        "instance_uid": uid(number),
        "boot_id": boot,
        "version": "0.1.0",
        "capabilities": frozenset({"policy.v1"}),
        "address": "192.0.2.1:5000",
        "opened_at": WHEN,
    }
    return Session(**(values | changed))  # type: ignore[arg-type]


def draft(text: str = "", **changed: object) -> PolicyDraft:
    """A policy whose document is this text."""
    values: dict[str, object] = {"name": "test", "toml": f"# {text}", "document": text.encode(), "author": "jane"}
    return PolicyDraft(**(values | changed))  # type: ignore[arg-type]
