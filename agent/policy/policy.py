"""The compiled policy: immutable, whole, ready to decide by. Holds no live state and no protobuf object."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from agent.model import Answer, CallAttempt
from agent.numbers.dno import DnoList
from agent.numbers.patterns import NumberPatterns
from agent.policy.counters import Rate
from agent.policy.trunks import AddressBook, Networks


class Mode(Enum):
    """What a rule may do. A rule that is off is not compiled at all."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class Scope(Enum):
    """What a limit counts by."""

    GLOBAL = "global"
    TRUNK = "trunk"
    CUSTOMER = "customer"
    CALLING = "calling"
    CALLED = "called"
    CALLED_PREFIX = "called-prefix"


@dataclass(frozen=True, slots=True)
class AllowList:
    """What a rule must never refuse."""

    calling: NumberPatterns = field(default_factory=NumberPatterns)
    called: NumberPatterns = field(default_factory=NumberPatterns)
    trunks: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.calling or self.called or self.trunks)

    def __or__(self, other: "AllowList") -> "AllowList":
        return AllowList(self.calling | other.calling, self.called | other.called, self.trunks | other.trunks)

    def covers(self, attempt: CallAttempt) -> bool:
        """Whether this attempt is on the list. An empty list covers nothing."""
        return attempt.trunk in self.trunks or attempt.calling in self.calling or attempt.called in self.called


@dataclass(frozen=True, slots=True)
class EmergencySpec:
    """What reaches or comes from an emergency service, beside what the rule knows by itself."""

    numbers: frozenset[str]
    psap_calling: NumberPatterns
    psap_sources: Networks


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """What every refusing rule has."""

    mode: Mode
    answer: Answer
    allow: AllowList


@dataclass(frozen=True, slots=True)
class ProviderBlock:
    """A provider, by trunk or by upstream, from `starts` until `ends` (epoch seconds; infinities where open)."""

    trunk: str
    upstream: str
    starts: float
    ends: float
    reference: str


@dataclass(frozen=True, slots=True)
class ProviderBlockSpec:
    """Everything from these providers is refused while their block lasts."""

    rule: RuleSpec
    blocks: tuple[ProviderBlock, ...]


@dataclass(frozen=True, slots=True)
class DnoSpec:
    """Numbers that never originate calls: lists by name, and what the numbering plan does not allow."""

    rule: RuleSpec
    lists: tuple[tuple[str, DnoList], ...]
    refuse_invalid: bool


@dataclass(frozen=True, slots=True)
class CallerIdSpec:
    """Infractions of one customer: the first `warn_first` within `period` seconds warn, the next is refused."""

    rule: RuleSpec
    inventory: Mapping[str, NumberPatterns]
    warn_first: int
    period: float
    suspend: float


@dataclass(frozen=True, slots=True)
class LimitSpec:
    """One limit. `rate` None: no rate limit; `sessions` 0: no session limit; `drop_above` inf: never drop."""

    rule: RuleSpec
    name: str
    scope: Scope
    trunks: frozenset[str]
    customers: frozenset[str]
    called_prefixes: frozenset[str]
    rate: Rate | None
    sessions: int
    warn_at: float
    drop_above: float


@dataclass(frozen=True, slots=True)
class SubscriberListSpec:
    """Called number (canonical digits) to the callers that it does not want."""

    rule: RuleSpec
    unwanted: Mapping[str, NumberPatterns]
    no_anonymous: frozenset[str]


@dataclass(frozen=True, slots=True)
class Policy:
    """One generation of everything that screening decides by. A spec that is None is a rule that is off."""

    generation: int
    name: str
    addresses: AddressBook
    emergency: EmergencySpec
    provider_block: ProviderBlockSpec | None
    dno: DnoSpec | None
    caller_id: CallerIdSpec | None
    limits: tuple[LimitSpec, ...]
    subscriber_lists: SubscriberListSpec | None
    # "name generation sha256" of every list that took part, for records.
    list_versions: tuple[str, ...]
