"""One document of trust over its life: where it comes from, the last good one, how old it is, what is wrong with it.

Pure state: the keeper reads, fetches and judges, and tells here what came of it. Times: `now` monotonic, `when` epoch
seconds.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from agent.identity.trust_list import TrustList
from agent.stir.entries import CLOCK_SKEW
from agent.stir.lists import Document, Kind, Stamp, Value
from agent.stir.settings import is_url
from agent.stir.stored import Stored

FILE_SECONDS: Final = 10.0
"""Between two looks at whether a file has changed; one look is a stat."""

RETRY_SECONDS: Final = 60.0
"""After a fetch that failed, doubled each time up to the ordinary interval."""


@dataclass(slots=True)
class Artifact:
    """A trust list or a revocation list from one source; `refresh` and `max_age` in seconds.

    `value` is the last good one, None before there was any; `trouble` why it was not confirmed since, "" if it was.
    """

    kind: Kind
    source: str
    refresh: float
    max_age: float
    value: Value | None = None
    signer: bytes = b""
    body: bytes = b""
    trouble: str = ""
    stamp: Stamp | None = None
    failures: int = 0
    next_look: float = 0.0
    confirmed: float | None = None  # monotonic

    @property
    def is_file(self) -> bool:
        return not is_url(self.source)

    def restore(self, value: Value, stored: Stored, now: float, when: float) -> None:
        """What the state directory had: as old as it is, or of unknown age when it is from the future."""
        self.value, self.body, self.signer = value, stored.body, stored.signer
        age = when - stored.fetched
        self.confirmed = now - (max(age, 0.0) if age >= -CLOCK_SKEW else self.max_age + 1.0)
        if not self.is_file:
            self.next_look = max(now, min(self.confirmed + self.refresh, now + self.refresh))

    def succeed(self, value: Value, document: Document, now: float) -> bool:
        """A good one, the same or another; whether it is another."""
        changed = self.value is None or document.body != self.body
        if changed:
            self.value = value
        self.body, self.signer = document.body, document.signer
        self.confirm(now)
        return changed

    def confirm(self, now: float) -> None:
        """It is still what is at its source."""
        self.trouble, self.failures, self.confirmed = "", 0, now
        self.next_look = now + (FILE_SECONDS if self.is_file else self.refresh)

    def fail(self, why: str, now: float) -> bool:
        """None came; the last good one stays. Whether that is news."""
        self.failures += 1
        pause = FILE_SECONDS if self.is_file else min(RETRY_SECONDS * 2 ** min(self.failures - 1, 16), self.refresh)
        self.next_look = now + pause
        news, self.trouble = why != self.trouble, why
        return news

    def age(self, now: float) -> float:
        """Seconds since it was last confirmed at its source; 0 if it never was."""
        return 0.0 if self.confirmed is None else max(0.0, now - self.confirmed)

    def alarm(self, now: float, when: float) -> str:
        """What somebody must look at, "" if nothing."""
        if self.value is None:
            return f"{self.kind} {self.source}: {self.trouble or 'not there yet'}"
        end = self.value.expires if isinstance(self.value, TrustList) else self.value.next_update
        if end is not None and end < when:
            return self._words(f"expired on {_date(end)}")
        if self.trouble and self.is_file:
            return self._words("the last good one is in use")
        if self.age(now) > self.max_age:
            return self._words(f"not confirmed for {self.age(now) / 3600:.0f} h")
        return ""

    def _words(self, what: str) -> str:
        return f"{self.kind} {self.source}: {what}" + (f" ({self.trouble})" if self.trouble else "")


def _date(when: float) -> str:
    try:
        return datetime.fromtimestamp(when, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{when:.0f} (epoch seconds)"
