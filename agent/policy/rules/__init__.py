"""The rules, in the one order in which they run. Each refuses for one reason; a file each.

    1 emergency   2 provider block   3 do-not-originate   4 caller-ID authorisation   5 limits (rate, sessions)
    6 identity    7 subscriber lists   8 analytics

Rule 1 is no member of the list that can be configured: screening asks it first, always. Identity verification
and analytics have their place in the order and no rule yet.
"""

from collections.abc import Sequence

from agent.calls.sessions import SessionTable
from agent.model import Rule
from agent.policy.counters import RateTable
from agent.policy.policy import LimitSpec, Policy
from agent.policy.rules.caller_id import CallerIdRule, Infractions
from agent.policy.rules.do_not_originate import DoNotOriginateRule
from agent.policy.rules.limits import COUNT_ONLY, LimitRule
from agent.policy.rules.provider_block import ProviderBlockRule
from agent.policy.rules.subscriber_list import SubscriberListRule


class RuleState:
    """What rules count, apart from the policy: it outlives a change of policy."""

    def __init__(self, sessions: SessionTable) -> None:
        self.sessions = sessions
        self.infractions = Infractions()
        self._tables: dict[tuple[str, str], RateTable] = {}

    def table(self, spec: LimitSpec) -> RateTable:
        """The counters of a limit; the same ones as long as it keeps its name and scope."""
        rate = spec.rate or COUNT_ONLY
        table = self._tables.setdefault((spec.name, spec.scope.value), RateTable(rate))
        table.resize(rate)
        return table

    def keep_only(self, policy: Policy) -> None:
        """Forget the counters of limits that the policy no longer has."""
        wanted = {(spec.name, spec.scope.value) for spec in policy.limits}
        self._tables = {key: table for key, table in self._tables.items() if key in wanted}

    @property
    def overflows(self) -> int:
        """Cells that were forgotten early because a table was full."""
        return sum(table.overflows for table in self._tables.values())


def build_rules(policy: Policy, state: RuleState) -> tuple[Sequence[Rule], Sequence[LimitRule]]:
    """Every rule that is not off, in order; and the limits again, which consume when a call passes."""
    limits = tuple(LimitRule(spec, state.table(spec), state.sessions) for spec in policy.limits)
    rules: list[Rule] = []
    if policy.provider_block is not None:
        rules.append(ProviderBlockRule(policy.provider_block))
    if policy.dno is not None:
        rules.append(DoNotOriginateRule(policy.dno))
    if policy.caller_id is not None:
        rules.append(CallerIdRule(policy.caller_id, state.infractions))
    rules.extend(limits)
    if policy.subscriber_lists is not None:
        rules.append(SubscriberListRule(policy.subscriber_lists))
    return tuple(rules), limits
