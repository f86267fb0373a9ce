"""Rule 5: rates and sessions, any number of limits at once, each counting by its own scope.

Every attempt counts in the running window, refused or not; only a call that passes *all* rules consumes of the
rate and takes a session. So a flood that one limit refuses does not eat what another grants to good calls.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from agent.calls.sessions import SessionTable
from agent.model import DROP, CallAttempt, Category, Refuse, Verdict
from agent.policy.counters import BANK_MAX, RateBank, RateTablePy
from agent.policy.leases import LeaseBook
from agent.policy.policy import UNVOUCHED, LimitSpec, Mode, Scope
from agent.policy.rules.leased import LeasedLimits
from agent.policy.trunks import Trunk

Key = Callable[[CallAttempt], str]

# What an attempt is counted by, in the order of the first keys that every attempt has.
SCOPES: Final = (Scope.GLOBAL, Scope.TRUNK, Scope.CUSTOMER, Scope.CALLING, Scope.CALLED)
EVERYTHING: Final = "*"
CALLING_KEY: Final = 1  # in `LimitStage.keys_of`: the digits of the calling number, of the called number
CALLED_KEY: Final = 2


class LimitStage:
    """All limits. Remembers an attempt from `check` to the `admit` that directly follows it."""

    def __init__(
        self,
        specs: Sequence[LimitSpec],
        tables: Mapping[str, RateTablePy],
        sessions: SessionTable,
        leases: LeaseBook | None = None,
    ) -> None:
        self._sessions = sessions
        self._extra_keys: list[Key] = []
        self._extra_specs: list[LimitSpec] = []
        self._keys: tuple[str, ...] = ()
        slots = [self._slot(spec) for spec in specs]
        self._rated = [spec for spec in specs if spec.rate is not None]
        self.bank = RateBank(
            tuple(tables[spec.name] for spec in self._rated),
            tuple(slot for spec, slot in zip(specs, slots, strict=True) if spec.rate is not None),
            tuple(map(_warn_attempts, self._rated)),
        )
        rated = [(spec, slot) for spec, slot in zip(specs, slots, strict=True) if spec.rate is not None]
        fleet = [(n, spec, slot) for n, (spec, slot) in enumerate(rated) if spec.fleet is not None]
        self._leased = LeasedLimits(fleet, leases) if fleet and leases is not None else None
        self._by_sessions = [(spec, slot) for spec, slot in zip(specs, slots, strict=True) if spec.sessions]

    def check(self, attempt: CallAttempt, now: float) -> Sequence[tuple[bool, Verdict]]:
        """Count the attempt; every refusal, and whether its limit enforces it. Consumes nothing."""
        keys: tuple[str, ...] = (
            EVERYTHING,
            attempt.trunk,
            attempt.customer,
            attempt.calling.digits,
            attempt.called.digits,
        )
        if self._extra_keys:
            keys += tuple([key(attempt) for key in self._extra_keys])
        self._keys = keys
        signs = self.bank.hit(keys, now)
        if self._leased is not None:
            signs = self._leased.settle(signs, keys, now)
        if not signs and not self._by_sessions:
            return ()
        return self.refusals(attempt, signs) + self._session_refusals(keys)

    def admit(self, now: float) -> tuple[tuple[str, str], ...]:
        """The attempt of the last `check` passes: consume of the rates. Returns the session keys to hold."""
        self.bank.admit(now)
        if self._leased is not None:
            self._leased.take()
        if not self._by_sessions:
            return ()
        return tuple((spec.name, self._keys[slot]) for spec, slot in self._by_sessions if self._keys[slot])

    @property
    def has_sessions(self) -> bool:
        """Whether a limit counts calls in progress."""
        return bool(self._by_sessions)

    def keys_of(self, trunk: Trunk) -> tuple[str | int, ...] | None:
        """What `check` counts all calls of a trunk by: constants, and CALLING_KEY and CALLED_KEY for what each call
        brings. None where that depends on more than these numbers as they are, or on leases of the fleet's limits."""
        if self._leased is not None:
            return None
        keys: list[str | int] = [EVERYTHING, trunk.id, trunk.customer, CALLING_KEY, CALLED_KEY]
        for spec in self._extra_specs:
            if spec.rule.allow or spec.attestations or spec.scope not in SCOPES:
                return None
            chosen = not (spec.trunks or spec.customers) or trunk.id in spec.trunks or trunk.customer in spec.customers
            keys.append(keys[SCOPES.index(spec.scope)] if chosen else "")
        return tuple(keys)

    def _slot(self, spec: LimitSpec) -> int:
        """Where this limit's key stands among the keys of an attempt; a key of its own where it has conditions."""
        if spec.scope in SCOPES and not (spec.trunks or spec.customers or spec.attestations or spec.rule.allow):
            return SCOPES.index(spec.scope)
        self._extra_keys.append(_own_key(spec))
        self._extra_specs.append(spec)
        return len(SCOPES) + len(self._extra_keys) - 1

    def refusals(self, attempt: CallAttempt, signs: int) -> list[tuple[bool, Verdict]]:
        """What follows from the signs of the bank's latest hit; warnings become notes."""
        refusals = []
        for i, spec in enumerate(self._rated):
            if signs >> (BANK_MAX + i) & 1:
                attempt.notes += (f"{spec.name}: {_count(spec, self.bank.attempts(i))}, near the limit",)
            if signs >> i & 1:
                share = "" if self._leased is None else self._leased.why(i)
                refusals.append((spec.rule.mode is Mode.ENFORCE, _over_rate(spec, self.bank.attempts(i), share)))
        return refusals

    def _session_refusals(self, keys: Sequence[str]) -> list[tuple[bool, Verdict]]:
        refusals = []
        for spec, slot in self._by_sessions:
            if keys[slot] and self._sessions.count((spec.name, keys[slot])) >= spec.sessions:
                why = f"{spec.sessions} calls in progress, limit {spec.sessions}"
                verdict = Verdict(Refuse(spec.rule.answer), spec.name, Category.LIMIT, why)
                refusals.append((spec.rule.mode is Mode.ENFORCE, verdict))
        return refusals


def _over_rate(spec: LimitSpec, attempts: int, share: str) -> Verdict:
    """`share` says how much of a fleet's limit this agent has; "" where the limit's own rate counts."""
    assert spec.rate is not None
    if share:
        why = f"{attempts} attempts in {spec.rate.window:g} s, {share}"
    else:
        why = f"{_count(spec, attempts)}, burst {spec.rate.burst:g}"
    if attempts > spec.drop_above * spec.rate.window:
        return Verdict(DROP, spec.name, Category.LIMIT, f"{why}; dropped above {spec.drop_above:g} per s")
    return Verdict(Refuse(spec.rule.answer), spec.name, Category.LIMIT, why)


def _count(spec: LimitSpec, attempts: int) -> str:
    assert spec.rate is not None
    return f"{attempts} attempts in {spec.rate.window:g} s, limit {spec.rate.count:g}"


def _warn_attempts(spec: LimitSpec) -> int:
    assert spec.rate is not None
    return max(1, round(spec.warn_at * spec.rate.count)) if spec.warn_at < 1 else 0


def _own_key(spec: LimitSpec) -> Key:
    """The key of a limit that has conditions: "" where one does not hold."""
    base = _prefix_key(spec.called_prefixes) if spec.scope is Scope.CALLED_PREFIX else _PLAIN_KEYS[spec.scope]
    chosen = bool(spec.trunks or spec.customers)
    vouched = spec.attestations

    def key(attempt: CallAttempt) -> str:
        if chosen and attempt.trunk not in spec.trunks and attempt.customer not in spec.customers:
            return ""
        if vouched and _attestation(attempt) not in vouched:
            return ""
        return "" if spec.rule.allow.covers(attempt) else base(attempt)

    return key


def _prefix_key(prefixes: frozenset[str]) -> Key:
    lengths = sorted({len(prefix) for prefix in prefixes}, reverse=True)

    def key(attempt: CallAttempt) -> str:
        digits = attempt.called.digits
        return next((digits[:n] for n in lengths if digits[:n] in prefixes), "")

    return key


def _attestation(attempt: CallAttempt) -> str:
    """What somebody vouches for, UNVOUCHED where nobody does; "" where nobody looked."""
    if attempt.identity is None:
        return ""
    return attempt.identity.attestation if attempt.identity.valid else UNVOUCHED


_PLAIN_KEYS: Final[Mapping[Scope, Key]] = {
    Scope.GLOBAL: lambda _attempt: EVERYTHING,
    Scope.TRUNK: lambda attempt: attempt.trunk,
    Scope.CUSTOMER: lambda attempt: attempt.customer,
    Scope.CALLING: lambda attempt: attempt.calling.digits,
    Scope.CALLED: lambda attempt: attempt.called.digits,
    Scope.SIGNER: lambda attempt: attempt.identity.spc if attempt.identity and attempt.identity.valid else "",
}
