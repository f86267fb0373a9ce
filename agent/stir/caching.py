"""How long a certificate may be used before it is fetched again: what its server says, within our bounds.

RFC 9111 4.2.1 for a shared cache; ATIS-1000074: 24 hours where the server says nothing, and never more. Pure.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

Headers = Sequence[tuple[bytes, bytes]]

LEAST_SECONDS: Final = 10.0
"""Whatever the server says: no-store or max-age=0 must not turn every call into a fetch."""

# RFC 9110 5.6.2 and 5.6.4: token, or token = token / quoted string.
_DIRECTIVE: Final = re.compile(rb'([!#$%&\'*+.^_`|~0-9A-Za-z-]+)(?:=(?:"([^"]*)"|([^\s,";]*)))?')
_SECONDS: Final = re.compile(rb"[0-9]+")
# RFC 9111 1.2.2: a delta beyond 2^31 is infinity.
_MANY_DIGITS: Final = 10
# RFC 9111 5.2.2: an answer that must not be used once it is stale, or must not be kept at all.
_STRICT: Final = frozenset((b"no-store", b"no-cache", b"must-revalidate", b"proxy-revalidate", b"s-maxage"))


@dataclass(frozen=True, slots=True)
class Lifetime:
    """`seconds` for which an answer is fresh. `stale`: it may be used beyond that while the server does not answer
    (RFC 9111 4.2.4)."""

    seconds: float
    stale: bool


def read_lifetime(headers: Headers, when: float, most: float) -> Lifetime:
    """The lifetime of an answer that came at `when` (epoch seconds), at the most `most` seconds. Never raises."""
    directives = _directives(_values(headers, b"cache-control"))
    strict = not _STRICT.isdisjoint(directives)
    stated = _stated(headers, directives, when)
    if stated is None:
        return Lifetime(most, not strict)
    left = stated - _age(headers)
    return Lifetime(min(max(left, LEAST_SECONDS), most), not strict)


def _stated(headers: Headers, directives: dict[bytes, bytes], when: float) -> float | None:
    """What the server says; None if it says nothing. What it says in vain counts as stale (RFC 9111 4.2.1)."""
    if b"no-store" in directives or b"no-cache" in directives:
        return 0.0
    for name in (b"s-maxage", b"max-age"):
        if name in directives:
            return _seconds(directives[name])
    expires = _values(headers, b"expires")
    if not expires:
        return None
    end = _date(expires[0])
    if end is None:
        return 0.0  # RFC 9111 5.3: an invalid date, "0" above all, is in the past
    dates = _values(headers, b"date")
    start = _date(dates[0]) if dates else None
    return end - (when if start is None else start)


def _directives(values: Iterable[bytes]) -> dict[bytes, bytes]:
    """Name, in lower case, to value; of one that stands twice the first (RFC 9111 4.2.1)."""
    found: dict[bytes, bytes] = {}
    for value in values:
        for name, quoted, plain in _DIRECTIVE.findall(value):
            found.setdefault(name.lower(), quoted or plain)
    return found


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _age(headers: Headers) -> float:
    values = _values(headers, b"age")
    return _seconds(values[0].strip()) if values else 0.0


def _seconds(text: bytes) -> float:
    if not _SECONDS.fullmatch(text):
        return 0.0
    return float(1 << 31) if len(text) > _MANY_DIGITS else float(int(text))


def _date(text: bytes) -> float | None:
    """Epoch seconds of an HTTP-date (RFC 9110 5.6.7); None for what is none."""
    try:
        return parsedate_to_datetime(text.decode("ascii")).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
