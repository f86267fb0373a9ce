"""Rule 2: everything from a blocked provider is refused (47 CFR 64.1200(n)(2), (n)(3)).

Blocks begin and end on their own dates: a Final Determination Order binds 30 days after its release, so the
operator enters it at once and the rule waits.
"""

from datetime import UTC, datetime
from math import isinf
from typing import Final

from agent.model import CallAttempt, Category, Refuse, Verdict
from agent.policy.policy import Mode, ProviderBlock, ProviderBlockSpec

NAME: Final = "provider-block"


class ProviderBlockRule:
    """Looks up the attempt's trunk and upstream provider."""

    __slots__ = ("_allow", "_by_trunk", "_by_upstream", "_refuse", "enforcing")

    name = NAME

    def __init__(self, spec: ProviderBlockSpec) -> None:
        self.enforcing = spec.rule.mode is Mode.ENFORCE
        self._refuse = Refuse(spec.rule.answer)
        self._allow = spec.rule.allow
        self._by_trunk: dict[str, list[ProviderBlock]] = {}
        self._by_upstream: dict[str, list[ProviderBlock]] = {}
        for block in spec.blocks:
            if block.trunk:
                self._by_trunk.setdefault(block.trunk, []).append(block)
            else:
                self._by_upstream.setdefault(block.upstream, []).append(block)

    def check(self, attempt: CallAttempt, _now: float) -> Verdict | None:
        """Refuse while a block of the trunk or its upstream provider lasts."""
        for block in (*self._by_trunk.get(attempt.trunk, ()), *self._by_upstream.get(attempt.upstream, ())):
            if block.starts <= attempt.when < block.ends and not self._allow.covers(attempt):
                return Verdict(self._refuse, NAME, Category.PROVIDER_BLOCK, _why(block))
        return None


def _why(block: ProviderBlock) -> str:
    subject = f"trunk {block.trunk}" if block.trunk else f"provider {block.upstream}"
    since = "" if isinf(block.starts) else f" since {datetime.fromtimestamp(block.starts, UTC):%Y-%m-%d}"
    reference = f" ({block.reference})" if block.reference else ""
    return f"{subject} is blocked{since}{reference}"
