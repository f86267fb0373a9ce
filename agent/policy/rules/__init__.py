"""The rules, in the one order in which they run. Each refuses for one reason; a file each.

    1 emergency   2 provider block   3 do-not-originate   4 caller-ID authorisation   5 limits (rate, sessions)
    6 identity    7 subscriber lists   8 analytics

Rule 1 can not be configured away: it is always there and is asked first. Analytics has its place in the order and no
rule yet.
"""

from dataclasses import dataclass

from agent.calls.sessions import SessionTable
from agent.model import Rule
from agent.policy.counters import RateTablePy, new_table
from agent.policy.leases import LeaseBook
from agent.policy.policy import LimitSpec, Policy
from agent.policy.rules.caller_id import CallerIdRule, Infractions
from agent.policy.rules.do_not_originate import DoNotOriginateRule
from agent.policy.rules.emergency import EmergencyRule
from agent.policy.rules.identity import IdentityRule
from agent.policy.rules.leased import fleet_limits, foreseen_keys
from agent.policy.rules.limits import LimitStage
from agent.policy.rules.provider_block import ProviderBlockRule
from agent.policy.rules.subscriber_list import SubscriberListRule


class RuleState:
    """What rules count, apart from the policy: it outlives a change of policy."""

    def __init__(self) -> None:
        self.sessions = SessionTable()
        self.infractions = Infractions()
        self.leases = LeaseBook()
        self._tables: dict[tuple[str, str], RateTablePy] = {}

    def tables(self, limits: tuple[LimitSpec, ...]) -> dict[str, RateTablePy]:
        """The counters of every rate limit, by name; the same ones as long as a limit keeps its name and scope.

        Those of limits that are gone are forgotten.
        """
        kept: dict[tuple[str, str], RateTablePy] = {}
        for spec in limits:
            if spec.rate is None:
                continue
            key = (spec.name, spec.scope.value)
            known = self._tables.get(key)
            table = kept[key] = new_table(spec.rate) if known is None else known
            table.configure(spec.rate.window, spec.rate.interval, spec.rate.tolerance)
        self._tables = kept
        return {name: table for (name, _), table in kept.items()}

    def rated(self) -> dict[tuple[str, str], RateTablePy]:
        """The counters of the policy in force, by name and scope of their limits."""
        return dict(self._tables)

    @property
    def overflows(self) -> int:
        """Cells that were forgotten early because a table was full."""
        return sum(table.overflows for table in self._tables.values()) + self.leases.overflows


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of one policy over the state: emergency, those before the limits, the limits, those after."""

    emergency: EmergencyRule
    before: tuple[Rule, ...]
    limits: LimitStage | None
    after: tuple[Rule, ...]


def build_rules(policy: Policy, state: RuleState) -> RuleSet:
    """Every rule that is not off, in order."""
    before: list[Rule] = []
    if policy.provider_block is not None:
        before.append(ProviderBlockRule(policy.provider_block))
    if policy.dno is not None:
        before.append(DoNotOriginateRule(policy.dno))
    if policy.caller_id is not None:
        before.append(CallerIdRule(policy.caller_id, state.infractions))
    tables = state.tables(policy.limits)
    state.leases.follow(fleet_limits(policy), foreseen_keys(policy))
    limits = LimitStage(policy.limits, tables, state.sessions, state.leases) if policy.limits else None
    after: list[Rule] = []
    if policy.identity is not None:
        after.append(IdentityRule(policy.identity))
    if policy.subscriber_lists is not None:
        after.append(SubscriberListRule(policy.subscriber_lists))
    return RuleSet(EmergencyRule(policy.emergency), tuple(before), limits, tuple(after))
