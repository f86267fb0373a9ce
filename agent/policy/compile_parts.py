"""What several sections of a policy are made of: modes and answers, allow-lists, numbers, times, names.

Knows no section. Every error is collected and names its field, and what is wrong takes a harmless value, so that the
compilation goes on to the next error.
"""

import re
from collections.abc import Callable, Container, Iterable
from datetime import datetime
from typing import Final, TypeVar

from agent.model import Category, ConfigError, ConfigErrors
from agent.numbers.patterns import NumberPatterns
from agent.policy.policy import AllowList, Mode, RuleSpec
from agent.policy.refusals import answer_for
from agent.policy.trunks import UNKNOWN
from sbcedge.policy.v1 import policy_pb2 as pb

T = TypeVar("T")
IDENTIFIER: Final = re.compile(r"[a-zA-Z0-9._-]{1,64}", re.ASCII)
DAY: Final = 86_400.0
# A year: a window that outlives every process is a mistake in the unit.
WINDOW_MAX: Final = 366 * DAY
UNMATCHED: Final = "none"

WrittenRule = pb.ProviderBlockRule | pb.DoNotOriginateRule | pb.CallerIdRule | pb.Limit | pb.SubscriberListRule


def default_country(written: pb.Trunk) -> str:
    """The country code of numbers that this trunk sends without one; "" where they are ambiguous."""
    country = written.default_country or "1"
    return "" if country == UNMATCHED else country


class Parts:
    """The parts, and the errors found so far. Trunks and customers are known once their tables were read.

    `allow` is what no rule may refuse.
    """

    def __init__(self) -> None:
        self.errors: list[ConfigError] = []
        self.allow = AllowList()
        self.trunk_ids: set[str] = set()
        self.customer_ids: set[str] = set()

    def rule(self, written: WrittenRule, category: Category, field: str) -> RuleSpec | None:
        """Mode, answer and allow-list of a rule; None if it is off, or its answer is wrong."""
        allow = self.allow | self.allow_list(written.allow, f"{field}.allow")
        answer = self.checked(lambda: answer_for(category, written.answer, f"{field}.answer"))
        mode = self.mode(written.mode)
        return None if mode is None or answer is None else RuleSpec(mode, answer, allow)

    def mode(self, written: pb.Mode) -> Mode | None:
        """Enforce unless something else is written; None: off."""
        if written == pb.MODE_OFF:
            return None
        return Mode.SHADOW if written == pb.MODE_SHADOW else Mode.ENFORCE

    def allow_list(self, written: pb.AllowList, field: str) -> AllowList:
        """What is never refused."""
        return AllowList(
            self.patterns(written.calling, f"{field}.calling"),
            self.patterns(written.called, f"{field}.called"),
            self.trunks(written.trunks, f"{field}.trunks"),
        )

    def trunks(self, names: Iterable[str], field: str) -> frozenset[str]:
        """Ids of trunks, "unknown" among them."""
        found = tuple(names)
        for i, name in enumerate(found):
            self.known(name, self.trunk_ids | {UNKNOWN.id}, f"{field}[{i}]", "trunks")
        return frozenset(found)

    def patterns(self, texts: Iterable[str], field: str) -> NumberPatterns:
        """Numbers, prefixes and ranges; the empty set if one is wrong."""
        return self.checked(lambda: NumberPatterns.parse(texts, field)) or NumberPatterns()

    def time(self, text: str, field: str, absent: float) -> float:
        """Epoch seconds of an RFC 3339 time; `absent` where nothing is written."""
        if not text:
            return absent
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.wrong(field, f'"{text}" is no RFC 3339 time like 2026-12-01T00:00:00Z')
            return absent
        if moment.tzinfo is None:
            self.wrong(field, f'"{text}" lacks its zone: end it with Z or +hh:mm')
            return absent
        return moment.timestamp()

    def seconds(
        self, value: float, field: str, default: float, bounds: tuple[float, float] = (0.0, WINDOW_MAX)
    ) -> float:
        """A length of time within bounds, both included; 0 stands for the default."""
        if value == 0:
            return default
        lowest, highest = bounds
        if not lowest <= value <= highest:  # neither is NaN
            self.wrong(field, f"must be from {lowest:g} to {highest:g} seconds")
            return default
        return value

    def identifier(self, name: str, field: str, taken: set[str]) -> None:
        """A name of its own, which is taken from now on."""
        if not IDENTIFIER.fullmatch(name):
            self.wrong(field, "needs 1 to 64 characters of a-z A-Z 0-9 . _ -")
        elif name in taken:
            self.wrong(field, f'"{name}" is used twice')
        taken.add(name)

    def known(self, name: str, known: Container[str], field: str, where: str) -> None:
        """A name that another table has."""
        if name not in known:
            self.wrong(field, f'"{name}" is not among the {where}')

    def checked(self, build: Callable[[], T]) -> T | None:
        """What `build` makes; None, and its ConfigErrors are kept, if it raises."""
        try:
            return build()
        except ConfigErrors as errors:
            self.errors.extend(errors.errors)
        except ConfigError as error:
            self.errors.append(error)
        return None

    def wrong(self, field: str, reason: str) -> None:
        """One more error."""
        self.errors.append(ConfigError(field, reason))
