"""Distinguished names: how they are shown, and when two of them are the same (RFC 5280 7.1)."""

import unicodedata
from typing import Final, NamedTuple

from cryptography import x509

SHOWN_MAX: Final = 512
"""Characters of a name that are shown. Names come off the network and go into logs, records and terminals."""

NameKey = tuple[tuple[tuple[str, str | bytes], ...], ...]


class Name(NamedTuple):
    """A distinguished name. `text` is RFC 4514, printable and bounded; `key` is equal for equal names."""

    text: str
    key: NameKey


def name_of(name: x509.Name) -> Name:
    """The name as we show and compare it."""
    return Name(printable(name.rfc4514_string()), key_of(name))


def key_of(name: x509.Name) -> NameKey:
    """What equal names have in common: case, width and repeated spaces do not count, nor which string type was used.

    Authorities write the same name as PrintableString here and as UTF8String there; the order of its parts counts.
    """
    return tuple(
        [
            tuple(sorted([(part.oid.dotted_string, _folded(part.value)) for part in parts], key=repr))
            for parts in name.rdns
        ]
    )


def printable(text: str) -> str:
    """Text of the network that may be shown: no control characters, not too much."""
    shown = text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "..."
    return "".join([c if c.isprintable() else ascii(c)[1:-1] for c in shown])


def _folded(value: str | bytes) -> str | bytes:
    if isinstance(value, bytes):
        return value
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())
