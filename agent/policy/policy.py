"""The compiled policy: immutable, whole, ready to decide by. Holds no live state and no protobuf object."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final

from agent.identity.model import Failure, Verstat
from agent.identity.rows import read_rows
from agent.model import Answer, CallAttempt
from agent.numbers.dno import DnoList
from agent.numbers.patterns import NumberPatterns
from agent.policy.counters import Rate
from agent.policy.emergency import FULL_NUMBERS, destination, is_esnet
from agent.policy.leases import Partition
from agent.policy.trunks import AddressBook, Networks

# PASSporT types that say something else than who calls (IANA): of a call that has no other, nobody has vouched for the
# number, and SHAKEN stands beside them.
OTHER_PASSPORTS: Final = frozenset({"rph", "rcd", "msec", "msg", "rsp"})


# A call whose Identity was looked at, and for whose number nobody vouches.
UNVOUCHED: Final = "none"


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
    SIGNER = "signer"


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
    # Trunks whose mark of an emergency service is believed as it is, without a verified PASSporT; None: all of them.
    believed: frozenset[str] | None = None


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
    """One limit. `rate` None: no rate limit; `sessions` 0: no session limit; `drop_above` inf: never drop.

    `fleet` None: the rate is this agent's alone. `attestations`: only calls with one of these, "none" where nobody
    vouches; empty: all calls.
    """

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
    block_source: float = 0.0  # seconds
    fleet: Partition | None = None
    attestations: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SubscriberListSpec:
    """Called number (canonical digits) to the callers that it does not want."""

    rule: RuleSpec
    unwanted: Mapping[str, NumberPatterns]
    no_anonymous: frozenset[str]


@dataclass(frozen=True, slots=True)
class Handling:
    """What is done about one kind of failure: what the called network is told, and how the call is refused.

    `answer` None: the call passes.
    """

    verstat: Verstat
    answer: Answer | None


@dataclass(frozen=True, slots=True)
class IdentitySpec:
    """How Identity headers are verified and what becomes of the calls; `handling` has every failure.

    On `required_trunks` a missing Identity is refused whatever `handling` says. `freshness` and `wait` in seconds.
    `mark` and `reason`: tell the called network the verstat, the calling network the failure (RFC 9410); both are
    false in shadow mode, whatever is written.
    """

    mode: Mode
    allow: AllowList
    handling: Mapping[Failure, Handling]
    required_trunks: frozenset[str]
    freshness: float
    wait: float
    lenient: bool
    mark: bool
    reason: bool


class Attestation(StrEnum):
    """What a signer says of the caller (RFC 8588 4)."""

    FULL = "A"  # we know the customer, and that the number is theirs
    PARTIAL = "B"  # we know the customer, not whether the number is theirs
    GATEWAY = "C"  # the call entered our network here; we know nothing of who made it


@dataclass(frozen=True, slots=True)
class SigningSpec:
    """Which calls get an Identity of ours.

    `inventory` holds the numbers of customers that have some, `countries` the default country of every trunk, `origids`
    the origid of trunks whose calls share one, `emergency` the codes that are dialled for emergency services. In
    shadow mode nothing is added.
    """

    mode: Mode
    gateway_trunks: frozenset[str]
    exempt_trunks: frozenset[str]
    inventory: Mapping[str, NumberPatterns]
    countries: Mapping[str, str]
    origids: Mapping[str, str]
    emergency: frozenset[str]
    divert: bool

    def decide(self, attempt: CallAttempt) -> Attestation | None:
        """What we attest of this call; None: it gets no new Identity.

        None is said of a caller without a number of a known country, since there is nothing to sign (RFC 8224 11),
        and where an Identity speaks for the caller already. A call to an emergency service is left alone: nobody may
        refuse it, so a signature buys it nothing, and it makes the message longer, which UDP may not carry to the end.
        """
        if attempt.calling.kind not in FULL_NUMBERS or self.leaves(attempt) or _is_authenticated(attempt):
            return None
        if attempt.trunk in self.gateway_trunks:
            return Attestation.GATEWAY
        if not attempt.customer:
            return None
        numbers = self.inventory.get(attempt.customer)
        return Attestation.FULL if numbers is not None and attempt.calling in numbers else Attestation.PARTIAL

    def leaves(self, attempt: CallAttempt) -> bool:
        """Whether nothing is added to this call, whoever makes it."""
        if attempt.trunk in self.exempt_trunks:
            return True
        marked = attempt.message.resource_priority
        return bool(destination(attempt, self.emergency) or (marked and is_esnet(marked)))


def _is_authenticated(attempt: CallAttempt) -> bool:
    """Whether a PASSporT that the call brings speaks for its caller, be it good or bad."""
    values = attempt.message.identity
    if not values:
        return False
    if attempt.identity is not None:
        return attempt.identity.failure is not Failure.MISSING
    # A row that cannot be read may have been meant to; only those that say that they are about something else are not.
    return any(row.ppt.lower() not in OTHER_PASSPORTS for row in read_rows(values))


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
    identity: IdentitySpec | None = None
    signing: SigningSpec | None = None
