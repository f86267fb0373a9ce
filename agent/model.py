"""The words of the product: call attempt, verdict, answer, effect.

Imports nothing of ours but the words of caller-ID authentication, and performs nothing. States that must not exist
cannot be written: a refusal carries its answer, a reply carries its bytes, an allow carries neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import ClassVar, NamedTuple, Protocol

from agent.identity.model import Verification


class ParseError(ValueError):
    """The peer sent something that is not SIP. Says where: `place` names the element, `offset` the byte."""

    def __init__(self, place: str, reason: str, offset: int = 0) -> None:
        super().__init__(f"{place}: {reason} (at byte {offset})")
        self.place = place
        self.reason = reason
        self.offset = offset


class ConfigError(ValueError):
    """The operator gave something that cannot be used. `field` is the path of the value, `trunks[2].sources[0]`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class ConfigErrors(ConfigError):  # noqa: N818  several ConfigError
    """Everything that is wrong with one document, so that the operator mends it in one go."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__("", "; ".join(map(str, errors)))
        self.errors = tuple(errors)


class NumberKind(IntEnum):
    """What a user part or tel URI turned out to be (wire-level reading, no list is consulted)."""

    ABSENT = 0  # no URI, or a URI without user part
    ANONYMOUS = 1  # RFC 3323 anonymous and its relatives; never an "invalid number"
    NOT_A_NUMBER = 2  # sip:alice@example.com
    SHORT = 3  # 911, 933, 211, *67: dialled codes that have no E.164 form
    NANP = 4  # +1 and ten digits that the numbering plan allows
    NANP_INVALID = 5  # +1, but the numbering plan does not allow it
    FOREIGN = 6  # E.164 of another country
    AMBIGUOUS = 7  # digits whose country nobody stated


class Number(NamedTuple):
    """A number as screening compares it.

    `digits` is E.164 without "+" where the country is known ("12015550123"), else the digits as sent;
    `national` is the ten-digit NANP number as an integer (2015550123), or -1 when the number is not +1 and ten digits.
    """

    kind: NumberKind
    digits: str
    national: int


NO_NUMBER = Number(NumberKind.ABSENT, "", -1)


class Scan(Protocol):
    """What screening needs of one SIP message; `agent.sip.scan` describes the fields. Python or compiled."""

    @property
    def raw(self) -> bytes: ...
    @property
    def method(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def request_uri(self) -> bytes: ...
    @property
    def branch(self) -> bytes: ...
    @property
    def sent_by(self) -> bytes: ...
    @property
    def call_id(self) -> bytes: ...
    @property
    def cseq(self) -> int: ...
    @property
    def cseq_method(self) -> str: ...
    @property
    def from_uri(self) -> bytes: ...
    @property
    def from_tag(self) -> bytes: ...
    @property
    def to_uri(self) -> bytes: ...
    @property
    def to_tag(self) -> bytes: ...
    @property
    def asserted(self) -> tuple[bytes, ...]: ...
    @property
    def identity(self) -> tuple[bytes, ...]: ...
    @property
    def diversion(self) -> tuple[bytes, ...]: ...
    @property
    def privacy(self) -> bytes: ...
    @property
    def priority(self) -> bytes: ...
    @property
    def resource_priority(self) -> bytes: ...
    @property
    def content_length(self) -> int: ...
    @property
    def body_offset(self) -> int: ...


@dataclass(slots=True)
class CallAttempt:
    """One INVITE without To tag; its retransmissions and its retries after a challenge are folded in.

    `when` is wall-clock time (seconds since the epoch, UTC). `calling` is the number that the called party will
    be shown: P-Asserted-Identity where the trunk is trusted to assert it, else From; `other_calling` is the From
    number where an asserted one was chosen. `to` is read only where `called` is no full number. `trunk` is
    "unknown" for an address that no trunk claims; `customer` and `upstream` are "" when unknown. `notes` is what
    rules noticed without refusing: warnings and signs, for the record. `identity` is what its Identity rows are worth,
    None where that was not found out.
    """

    when: float
    trunk: str
    customer: str
    upstream: str
    source: str
    calling: Number
    other_calling: Number
    called: Number
    to: Number
    message: Scan
    notes: tuple[str, ...] = ()
    identity: Verification | None = None


class Category(StrEnum):
    """Why a call is refused, in the words of the refusal table; decides which answers are lawful."""

    NONE = "none"
    EMERGENCY = "emergency"
    PROVIDER_BLOCK = "provider-block"
    DO_NOT_ORIGINATE = "do-not-originate"
    CALLER_ID = "caller-id-authorisation"
    LIMIT = "limit"
    IDENTITY = "identity"
    SUBSCRIBER = "subscriber-list"
    ANALYTICS = "analytics"


@dataclass(frozen=True, slots=True)
class Answer:
    """A final SIP response, without what is copied from the request: code, phrase and extra header rows."""

    code: int
    phrase: str
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.code} {self.phrase}"


@dataclass(frozen=True, slots=True)
class Allow:
    """Let the call pass, untouched."""

    word: ClassVar[str] = "allow"


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer the call with a final response and do not let it pass."""

    answer: Answer
    word: ClassVar[str] = "refuse"


@dataclass(frozen=True, slots=True)
class Drop:
    """Discard in silence; lawful only for floods above the configured threshold."""

    word: ClassVar[str] = "drop"


Action = Allow | Refuse | Drop
ALLOW = Allow()
DROP = Drop()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule decided and in whose name. `why` is for people: "31 attempts in 1 s, limit 30, burst 10"."""

    action: Action
    rule: str
    category: Category
    why: str


@dataclass(frozen=True, slots=True)
class Release:
    """Let the message go on to the SBC exactly as it came."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Do not let the message reach the SBC."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Send these bytes back to where the request came from (RFC 3261 18.2.2)."""

    payload: bytes


Effect = Release | Discard | Reply
RELEASE = Release()
DISCARD = Discard()


class Rule(Protocol):
    """One rule of the pipeline. Has no opinion (None) on most calls.

    `check` runs for every attempt, also for one that an earlier rule refused, so that what counts is counted; it
    consumes nothing. What it noticed without refusing it adds to `attempt.notes`.
    """

    @property
    def name(self) -> str: ...
    @property
    def enforcing(self) -> bool: ...
    def check(self, attempt: CallAttempt, now: float) -> Verdict | None: ...
