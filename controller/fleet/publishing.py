"""How a policy becomes a generation: validated as agents will validate it, lists resolved, then stored and rolled out.

Knows policies as people write them and as agents decide by them. Compiling runs in a thread. What is wrong comes back
as ConfigErrors with every field; nothing is stored then.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from typing import Final

from agent.model import ConfigError, ConfigErrors
from agent.numbers.dno import DnoList
from agent.numbers.dno_build import DnoBuilder
from agent.numbers.listfile import encode, read_list
from agent.policy.compile import compile_policy
from agent.policy.document import from_toml, to_toml
from agent.policy.effective import with_defaults
from controller.artifacts.signing import signing
from controller.authority.signer import ArtifactSigner
from controller.errors import Conflict, Invalid, NotFound
from controller.fleet.rollout import AT_ONCE, DEFAULT_PLAN
from controller.model import Act, Artifact, ArtifactKey, Policy, PolicyDraft, RolloutPlan, RolloutState
from controller.store import Store
from controller.store.artifacts import ArtifactDraft
from sbcedge.policy.v1 import policy_pb2 as pb

TOML_MAX: Final = 900_000
DOCUMENT_MAX: Final = 900_000
"""Bytes; an offer is one message of at most 1 MiB, manifests included."""

COMMENT_MAX: Final = 1000
STEPS_MAX: Final = 20
SOAK_MAX: Final = 86_400.0
DNO, TRUST_LIST, CRL = "dno", "trust-list", "crl"

ListRef = tuple[str, str]
"""Kind and name."""

ALL_AT_ONCE: Final = RolloutPlan(AT_ONCE, DEFAULT_PLAN.soak, DEFAULT_PLAN.refusal_rise)

SETTLED_LOOKS: Final = (10, 1000)
"""Generations that are looked through for the one that was rolled out last; it is hardly ever far away."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A policy that is right. `document` is for agents: without a generation, so that its hash is its content's."""

    name: str
    toml: str
    document: bytes
    lists: tuple[ListRef, ...]
    full: str  # TOML with every default


class Publisher:
    """Of one controller. `clock` is epoch seconds."""

    def __init__(self, store: Store, signer: Callable[[], ArtifactSigner], clock: Callable[[], float]) -> None:
        self._store = store
        self._signer = signer
        self._clock = clock
        self._stand_in: DnoList | None = None

    async def check(self, toml: str) -> Checked:
        """What a policy amounts to. Raises ConfigErrors with every error; StoreError."""
        if len(toml.encode(errors="replace")) > TOML_MAX:
            raise ConfigErrors([ConfigError("", f"is longer than {TOML_MAX} bytes")])
        known = {(a.key.kind, a.key.name) for a in await self._store.artifacts.all_latest()}
        return await asyncio.to_thread(self._check, toml, known)

    async def apply(
        self, toml: str, comment: str, plan: RolloutPlan | None, expected: int, act: Callable[..., Act]
    ) -> Policy:
        """Make it the next generation and begin its rollout. Raises ConfigErrors, Invalid, Conflict, StoreError.

        `act` makes the entry of the audit log of whoever does this.
        """
        checked = await self.check(toml)
        _check_comment(comment)
        done = act("policy.apply", name=checked.name, comment=comment)
        draft = PolicyDraft(
            name=checked.name,
            toml=checked.toml,
            document=checked.document,
            author=_author(done),
            comment=comment,
            artifacts=await self._latest(checked.lists),
        )
        return await self._store.policies.add(draft, self._clock(), done, expected, plan or DEFAULT_PLAN)

    async def renew_lists(
        self, act: Callable[..., Act], comment: str = "", plan: RolloutPlan | None = None
    ) -> Policy | None:
        """The policy that is rolled out, or is being, with the latest lists; None when it has these already, or there
        is no policy yet.

        Raises Conflict when somebody else was quicker: then his generation has them.
        """
        try:
            current = await self._current()
        except NotFound:
            return None
        artifacts = await self._latest([(key.kind, key.name) for key in current.info.artifacts])
        if set(artifacts) == set(current.info.artifacts):
            return None
        latest = (await self._store.policies.get()).info.generation
        done = act("policy.renew-lists", lists=[f"{k.kind} {k.name} {k.generation}" for k in artifacts])
        return await self._again(current, artifacts, comment or "new lists", plan or DEFAULT_PLAN, done, latest)

    async def roll_back(
        self, generation: int, comment: str, plan: RolloutPlan | None, act: Callable[..., Act], expected: int = 0
    ) -> Policy:
        """A new generation with the rules of an old one and the lists of today, for all at once unless there is a plan.

        Raises NotFound, Invalid, Conflict, StoreError.
        """
        _check_comment(comment)
        old = await self._store.policies.get(generation)
        artifacts = await self._latest(list(_lists_of(_read(old)).values()))
        done = act("policy.roll-back", to=generation, comment=comment)
        return await self._again(old, artifacts, comment, plan or ALL_AT_ONCE, done, expected, back_to=generation)

    async def take_back(self, generation: int, comment: str, act: Callable[..., Act], expected: int) -> Policy:
        """The same after a rollout went wrong: with the lists of then, for one of these may be what is wrong.

        Agents take no list of a lower generation than they had, so an old one becomes the newest.
        """
        old = await self._store.policies.get(generation)
        artifacts = tuple([await self._as_then(key, act) for key in old.info.artifacts])
        done = act("policy.take-back", to=generation)
        return await self._again(old, artifacts, comment, ALL_AT_ONCE, done, expected, back_to=generation)

    async def after_restore(self, leap: int, act: Callable[..., Act]) -> Policy | None:
        """What was in force, for all at once, under numbers that agents cannot have seen; None: nothing ever was.

        Lists, too: agents take none of a generation that is below one that they had.
        """
        again = {}
        for old in await self._store.artifacts.all_latest():
            draft = _draft_of(old)
            done, above = act("list.restore", of=old.key.generation), old.key.generation + leap
            made = await self._store.artifacts.add(draft, signing(draft, self._signer()), self._clock(), done, above)
            again[old.key.kind, old.key.name] = made.key
        generation = await self.settled()
        if not generation:
            return None
        policy = await self._store.policies.get(generation)
        latest = (await self._store.policies.get()).info.generation
        artifacts = tuple([again[ref] for ref in dict.fromkeys(_lists_of(_read(policy)).values())])
        done = act("policy.restore", to=generation)
        comment = f"restored from a back-up, as generation {generation} was"
        return await self._again(policy, artifacts, comment, ALL_AT_ONCE, done, 0, generation, latest + leap)

    async def _as_then(self, key: ArtifactKey, act: Callable[..., Act]) -> ArtifactKey:
        old, latest = await self._store.artifacts.get(key), await self._store.artifacts.latest(key.kind, key.name)
        if latest.sha256 == old.sha256:
            return latest.key
        draft = _draft_of(old)
        done = act("list.take-back", to=key.generation)
        added = await self._store.artifacts.add(draft, signing(draft, self._signer()), self._clock(), done)
        return added.key

    async def has_its_lists(self, generation: int) -> bool:
        """Whether it can be offered: lists of old generations are not kept for ever. Raises NotFound."""
        policy = await self._store.policies.get(generation)
        there = {(key.kind, key.name) for key in policy.info.artifacts}
        return there.issuperset(_lists_of(_read(policy)).values())

    async def settled(self) -> int:
        """The last generation that was rolled out to the end; 0: none yet."""
        for limit in SETTLED_LOOKS:
            infos = await self._store.policies.history(limit)
            for info in infos:
                if info.rollout is RolloutState.DONE:
                    return info.generation
            if len(infos) < limit:
                break
        return 0

    async def diff(self, from_generation: int, to: Checked) -> str:
        """How the second differs, as TOML with every default filled in; "" it does not. Raises NotFound."""
        policy = await self._store.policies.get(from_generation)
        before = await self.check_stored(policy)
        lines = unified_diff(
            before.full.splitlines(), to.full.splitlines(), f"generation {policy.info.generation}", to.name or "new",
            lineterm="",
        )  # fmt: skip
        return "\n".join(lines)

    async def check_stored(self, policy: Policy) -> Checked:
        """The same of a generation: its lists were there once."""
        known = set(_lists_of(_read(policy)).values())
        return await asyncio.to_thread(self._check, policy.toml, known)

    async def _current(self) -> Policy:
        """What is being rolled out, else what was last. Raises NotFound."""
        running = await self._store.rollouts.running()
        generation = running[0].generation if running else await self.settled()
        if not generation:
            raise NotFound("policy", "in force")
        return await self._store.policies.get(generation)

    async def _again(
        self,
        policy: Policy,
        artifacts: tuple[ArtifactKey, ...],
        comment: str,
        plan: RolloutPlan,
        act: Act,
        expected: int,
        back_to: int = 0,
        above: int = 0,
    ) -> Policy:
        draft = PolicyDraft(
            name=policy.info.name,
            toml=policy.toml,
            document=policy.document,
            author=_author(act),
            comment=comment,
            rolled_back_to=back_to,
            artifacts=artifacts,
        )
        return await self._store.policies.add(draft, self._clock(), act, expected, plan, above)

    async def _latest(self, lists: Sequence[ListRef]) -> tuple[ArtifactKey, ...]:
        """The latest generation of each list. Raises Conflict: one has gone meanwhile."""
        artifacts = self._store.artifacts
        try:
            return tuple([(await artifacts.latest(kind, name)).key for kind, name in dict.fromkeys(lists)])
        except NotFound as error:
            raise Conflict(str(error)) from None

    def _check(self, toml: str, known: set[ListRef]) -> Checked:
        message = from_toml(toml)
        lists = _lists_of(message)
        errors = [
            ConfigError(field, f"there is no {ref[0]} list {ref[1]}: import it first")
            for field, ref in lists.items()
            if ref not in known
        ]
        compiled = None
        try:
            compiled = compile_policy(message, dict.fromkeys(message.do_not_originate.lists, self._any_list()))
        except ConfigErrors as several:
            errors.extend(several.errors)
        except ConfigError as error:
            errors.append(error)
        message.ClearField("generation")
        document = _serialised(message)
        if len(document) > DOCUMENT_MAX:
            errors.append(ConfigError("", f"makes {len(document)} bytes for agents; at most {DOCUMENT_MAX}"))
        if errors or compiled is None:
            raise ConfigErrors(errors)
        full = to_toml(with_defaults(message, compiled))
        return Checked(message.name, toml, document, tuple(lists.values()), full)

    def _any_list(self) -> DnoList:
        """Stands for a list that was checked when it was imported; nothing is looked up in it."""
        if self._stand_in is None:
            data = b"".join(encode(DnoBuilder().finish(), 0, 0.0, "stand-in"))
            self._stand_in = read_list(memoryview(data), "stand-in")
        return self._stand_in


def _lists_of(message: pb.Policy) -> dict[str, ListRef]:
    """Every list that a policy names, by the field that names it."""
    named = (
        ("do_not_originate.lists", DNO, message.do_not_originate.lists),
        ("identity.trust_lists", TRUST_LIST, message.identity.trust_lists),
        ("identity.crls", CRL, message.identity.crls),
    )
    return {f"{field}[{n}]": (kind, name) for field, kind, names in named for n, name in enumerate(names)}


def _draft_of(old: Artifact) -> ArtifactDraft:
    """The same bytes again, to become the newest."""
    return ArtifactDraft(
        kind=old.key.kind,
        name=old.key.name,
        sha256=old.sha256,
        size=old.size,
        format_version=old.format_version,
        not_after=old.not_after,
        location=old.location,
        author=old.author,
        counts=dict(old.counts),
    )


def _read(policy: Policy) -> pb.Policy:
    """As it is stored."""
    return pb.Policy.FromString(policy.document)


def plan_of(steps: Sequence[float], soak: float | None, refusal_rise: float) -> RolloutPlan:
    """A plan as an operator wrote it; what is absent or zero is as usual. Raises Invalid with the field."""
    if len(steps) > STEPS_MAX:
        raise Invalid("plan.steps", f"at most {STEPS_MAX}")
    for n, share in enumerate(steps):
        if not 0 < share <= 1 or (n and share <= steps[n - 1]):
            raise Invalid(f"plan.steps[{n}]", "must be a share of the fleet, up to 1, and more than the one before")
    if steps and steps[-1] != 1:
        raise Invalid(f"plan.steps[{len(steps) - 1}]", "must be 1: all agents")
    if soak is not None and not 0 <= soak <= SOAK_MAX:
        raise Invalid("plan.soak", f"must be up to {SOAK_MAX:g} s")
    if not 0 <= refusal_rise <= 1:
        raise Invalid("plan.refusal_rise", "must be from 0 to 1")
    return RolloutPlan(
        tuple(steps) or DEFAULT_PLAN.steps,
        DEFAULT_PLAN.soak if soak is None else soak,
        refusal_rise or DEFAULT_PLAN.refusal_rise,
    )


def _check_comment(comment: str) -> None:
    if len(comment) > COMMENT_MAX:
        raise Invalid("comment", f"is longer than {COMMENT_MAX} characters")


def _serialised(message: pb.Policy) -> bytes:
    return message.SerializeToString(deterministic=True)


def _author(act: Act) -> str:
    """ "jane" of "operator:jane"; a controller keeps its kind, since it is nobody."""
    return act.actor.removeprefix("operator:")
