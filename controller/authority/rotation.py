"""From one root of our own to the next, without a moment at which somebody cannot verify somebody.

    stage      a second root, with a key of its own: it issues nothing, and everybody gets it with the next certificate
    activate   it issues from now on; the one before is still trusted, for those whose certificates are of it
    retire     nobody has a certificate of an older one any more: it is trusted no longer

Agents renew at half of a certificate's life, so each step has to wait for the last agent: `activate` and `retire` look
whether all have come, and say who has not. Every order of "store written, key moved, process killed" is continued by
the next step, or start. Edge: files and the store; the controller does not run meanwhile, or runs on PostgreSQL and is
started again afterwards.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from agent.model import ConfigError
from controller.authority import keys, roots
from controller.authority.issuer import make_authority
from controller.authority.settings import AuthoritySettings
from controller.errors import Conflict
from controller.model import Act
from controller.store import Store
from controller.store.authorities import NEXT, OWN, AuthorityRow

NAMES_MAX: Final = 20
"""Agents that are named as being behind; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Root:
    """One that is trusted. `role` is "issues", "next" or "before"; `since` and `not_after` epoch seconds."""

    role: str
    sha256: str
    since: float
    not_after: float


class Rotation:
    """Of one fleet."""

    def __init__(self, settings: AuthoritySettings, store: Store) -> None:
        self._settings = settings
        self._store = store

    async def roots(self) -> list[Root]:
        """All that are trusted, the one that issues first."""
        rows = await self._store.authorities.all()
        roles = {OWN: "issues", NEXT: "next"}
        found = [_root(row, roles.get(row.name, "before")) for row in rows]
        return sorted(found, key=lambda root: (("issues", "next", "before").index(root.role), -root.since))

    async def behind(self) -> tuple[list[str], list[str]]:
        """Agents without the next root, and agents whose certificate may be of one before the one that issues."""
        return await self._store.authorities.behind(NEXT), await self._store.authorities.behind(OWN)

    async def stage(self, act: Act, when: float) -> str:
        """Make the next one; its SHA-256. Raises ConfigError, Conflict, StoreError."""
        self._own_only()
        path = keys.find(self._settings.directory, roots.NEXT_KEY)
        key = await asyncio.to_thread(keys.load, path)
        if key is None:
            if await self._store.authorities.get(NEXT) is not None:
                raise ConfigError(str(path), "is missing, and the next authority is staged already: put its key there")
            key = ec.generate_private_key(ec.SECP256R1())
            await asyncio.to_thread(keys.save_new, path, key)
        signing = roots.signing_key(path, key)
        made = make_authority(self._settings.trust_domain, signing, when).public_bytes(Encoding.DER)
        kept = await self._store.authorities.stage(made, when, act)
        if not roots.is_for(x509.load_der_x509_certificate(kept), signing):
            raise ConfigError(str(path), "is not the key of the authority that is staged already")
        return hashlib.sha256(kept).hexdigest()

    async def activate(self, act: Act, when: float, *, force: bool) -> str:
        """Have it issue; its SHA-256. Raises ConfigError, Conflict, StoreError."""
        self._own_only()
        staged = await self._store.authorities.get(NEXT)
        if staged is None:
            raise Conflict("there is no next authority: stage one first")
        path = keys.find(self._settings.directory, roots.NEXT_KEY)
        key = await asyncio.to_thread(keys.load, path)
        if key is None or not roots.is_for(x509.load_der_x509_certificate(staged), roots.signing_key(path, key)):
            raise ConfigError(str(path), "is missing, or is not the key of the authority that is staged")
        if not force:
            _check_all_came(await self._store.authorities.behind(NEXT), "do not know it yet")
        await self._store.authorities.activate(when, act)
        await asyncio.to_thread(roots.settle_keys, self._settings, staged)
        return hashlib.sha256(staged).hexdigest()

    async def retire(self, act: Act, when: float, *, force: bool) -> int:
        """Trust none but the one that issues, and the next; how many went. Raises ConfigError, Conflict, StoreError."""
        self._own_only()
        if not force:
            _check_all_came(await self._store.authorities.behind(OWN), "may have a certificate of one before")
        return await self._store.authorities.retire(act, when)

    def _own_only(self) -> None:
        if self._settings.certificate is not None:
            what = "is an authority of yours: write another one there, and agents take it with their next certificate"
            raise ConfigError("authority.certificate", what)


def _check_all_came(names: list[str], what: str) -> None:
    if names:
        more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
        shown = ", ".join(names[:NAMES_MAX])
        raise Conflict(f"{len(names)} agents {what}: {shown}{more}. Wait until they have renewed, or use --force")


def _root(row: AuthorityRow, role: str) -> Root:
    certificate = x509.load_der_x509_certificate(row.certificate)
    return Root(
        role,
        hashlib.sha256(row.certificate).hexdigest(),
        row.created_at,
        certificate.not_valid_after_utc.timestamp(),
    )
