"""How long an answer about a URL holds: good certificates, bad ones, failures, and what the disk still had. Pure.

- A good certificate is fresh for as long as its server says, 24 hours at the most. In the last fifth of that time
  whoever asks sets off its renewal beside, so that no call waits for a certificate that is in use.
- When the renewal fails, the certificate stays in use up to 24 hours from its fetch, unless its server forbade that
  (RFC 9111 4.2.4): that a repository is down is no reason to distrust those who sign. Its own validity and the
  revocation list are looked at with every call and every list anyway.
- A bad one is asked for again after five minutes, a failure after five seconds, doubled each time, up to five minutes.
"""

from typing import Final

from agent.identity.model import Credential, Unreachable
from agent.stir.cache import Entry
from agent.stir.caching import Lifetime
from agent.stir.stored import Stored

RENEW_SHARE: Final = 0.8
"""Of its time, after which a certificate is renewed."""

RETRY_FIRST: Final = 5.0
"""Seconds after a first failure: a call that is tried again at once must not knock again."""

RETRY_MOST: Final = 300.0
"""Seconds after many failures, and for a certificate that is not one to rely on: its owner may mend it."""

CLOCK_SKEW: Final = 300.0
"""Seconds that something on disk may be from the future: what is more comes of a clock that was wrong, then or now."""


def fetched_entry(host: str, body: bytes, answer: Credential, lifetime: Lifetime, now: float, max_age: float) -> Entry:
    """For what was just fetched. `body` b"": it is no chain at all."""
    if answer.fault:
        return _brief(host, body, answer, now + min(lifetime.seconds, RETRY_MOST))
    until = now + lifetime.seconds
    usable = now + max_age if lifetime.stale else until
    return Entry(host, answer, body, now + lifetime.seconds * RENEW_SHARE, until, usable)


def failed_entry(old: Entry | None, host: str, why: str, now: float) -> Entry:
    """For a URL that could not be fetched: what was known of it while that may be used, else the failure."""
    failures = 1 if old is None else old.failures + 1
    pause = min(RETRY_FIRST * 2 ** min(failures - 1, 16), RETRY_MOST)
    if old is not None and old.good and now < old.usable_until:
        until = min(max(old.until, now + pause), old.usable_until)
        renew_at = (
            now + pause * RENEW_SHARE
        )  # a call in time sets it off, so that none has to wait for the next failure
        return Entry(old.host, old.answer, old.body, renew_at, until, old.usable_until, failures)
    entry = _brief(host, b"", Unreachable(why), now + pause)
    entry.failures = failures
    return entry


def restored_entry(
    host: str, answer: Credential, stored: Stored, now: float, when: float, max_age: float
) -> Entry | None:
    """For what the disk had; None if it is of no use any more. `now` and `when` are the two clocks' one moment."""
    left = usable_seconds(stored, when, max_age)
    if left <= 0 or answer.fault:
        return None
    fresh = min(stored.fresh_until - when, left)
    renew_at = now + fresh - (stored.fresh_until - stored.fetched) * (1 - RENEW_SHARE)
    return Entry(host, answer, stored.body, renew_at, now + fresh, now + left)


def usable_seconds(stored: Stored, when: float, max_age: float) -> float:
    """For how long something on disk may still be used; 0 or less if it may not."""
    if stored.fetched > when + CLOCK_SKEW:
        return 0.0  # how old it is cannot be known
    return min(stored.usable_until, stored.fetched + max_age) - when


def to_store(url: str, body: bytes, lifetime: Lifetime, when: float, max_age: float) -> Stored:
    """What goes to disk of something fetched at `when`."""
    usable = max_age if lifetime.stale else lifetime.seconds
    return Stored(url, when, body, fresh_until=when + lifetime.seconds, usable_until=when + usable)


def reassessed(entry: Entry, answer: Credential, now: float) -> Entry:
    """The same certificate under another trust list or revocation list."""
    if not answer.fault:
        return Entry(entry.host, answer, entry.body, entry.renew_at, entry.until, entry.usable_until, entry.failures)
    return _brief(entry.host, entry.body, answer, min(entry.until, now + RETRY_MOST))


def _brief(host: str, body: bytes, answer: Credential | Unreachable, until: float) -> Entry:
    """One that is not renewed beside, and not used beyond its time."""
    return Entry(host, answer, body, until, until, until)
