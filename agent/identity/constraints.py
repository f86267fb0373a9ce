"""JWTClaimConstraints (RFC 8226 8) and their enhanced form (RFC 9118): which claims a certificate lets its holder make.

Knows the DER of both extensions. Knows no certificate and no PASSporT: whoever verifies a token compares it.
"""

from dataclasses import dataclass
from typing import Final

from agent.identity.der import (
    CONSTRUCTED,
    IA5_STRING,
    SEQUENCE,
    UTF8_STRING,
    DerError,
    read_elements,
    read_only,
    write_element,
)

CLAIMS_MAX: Final = 64
"""Claims in one list. PASSporTs know about a dozen."""

VALUES_MAX: Final = 1024
"""Values permitted for one claim: a list of display names may be long."""

_INCLUDE, _PERMIT, _EXCLUDE = CONSTRUCTED, CONSTRUCTED + 1, CONSTRUCTED + 2


@dataclass(frozen=True, slots=True)
class ClaimConstraints:
    """Claims that must be there, values that a claim must have if it is there, claims that must not be there."""

    mandatory: tuple[str, ...] = ()
    permitted: tuple[tuple[str, tuple[str, ...]], ...] = ()
    excluded: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.mandatory or self.permitted or self.excluded)

    def and_also(self, other: "ClaimConstraints") -> "ClaimConstraints":
        """Both at once: a claim that both name must have a value that both permit."""
        return ClaimConstraints(
            self.mandatory + other.mandatory, self.permitted + other.permitted, self.excluded + other.excluded
        )

    def encode(self) -> bytes:
        """The DER of the extension's value; of the enhanced one if anything is excluded."""
        parts = []
        if self.mandatory:
            parts.append(write_element(_INCLUDE, _names_der(self.mandatory)))
        if self.permitted:
            permitted = [
                write_element(
                    SEQUENCE,
                    write_element(IA5_STRING, claim.encode("ascii")),
                    write_element(SEQUENCE, *(write_element(UTF8_STRING, value.encode()) for value in values)),
                )
                for claim, values in self.permitted
            ]
            parts.append(write_element(_PERMIT, write_element(SEQUENCE, *permitted)))
        if self.excluded:
            parts.append(write_element(_EXCLUDE, _names_der(self.excluded)))
        return write_element(SEQUENCE, *parts)


def read_constraints(value: bytes, *, enhanced: bool) -> ClaimConstraints:
    """The constraints in the extension's value; only the enhanced form may exclude claims. Raises DerError."""
    mandatory: tuple[str, ...] = ()
    permitted: tuple[tuple[str, tuple[str, ...]], ...] = ()
    excluded: tuple[str, ...] = ()
    last = 0
    for part in read_elements(read_only(value, SEQUENCE), 3):
        if part.tag <= last:
            raise DerError("has a part twice or out of order")
        last = part.tag
        match part.tag:
            case 0xA0:  # _INCLUDE
                mandatory = _names(part.content)
            case 0xA1:  # _PERMIT
                permitted = _permitted(part.content)
            case 0xA2 if enhanced:  # _EXCLUDE
                excluded = _names(part.content)
            case _:
                raise DerError(f"has a part of tag {part.tag:#04x}")
    constraints = ClaimConstraints(mandatory, permitted, excluded)
    if not constraints:
        raise DerError("constrains nothing")
    return constraints


def _names(content: bytes) -> tuple[str, ...]:
    names = tuple(
        [_text(name.tag, IA5_STRING, name.content) for name in read_elements(read_only(content, SEQUENCE), CLAIMS_MAX)]
    )
    if not names:
        raise DerError("has a list of no claims")
    return names


def _permitted(content: bytes) -> tuple[tuple[str, tuple[str, ...]], ...]:
    permitted = []
    for pair in read_elements(read_only(content, SEQUENCE), CLAIMS_MAX):
        parts = list(read_elements(pair.content, 2))
        if pair.tag != SEQUENCE or len(parts) != 2 or parts[1].tag != SEQUENCE:
            raise DerError("has a claim without values")
        values = [_text(v.tag, UTF8_STRING, v.content) for v in read_elements(parts[1].content, VALUES_MAX)]
        if not values:
            raise DerError("has a claim without values")
        permitted.append((_text(parts[0].tag, IA5_STRING, parts[0].content), tuple(values)))
    if not permitted:
        raise DerError("has a list of no claims")
    return tuple(permitted)


def _text(tag: int, wanted: int, content: bytes) -> str:
    if tag != wanted:
        raise DerError(f"has tag {tag:#04x} in place of {wanted:#04x}")
    try:
        text = content.decode("ascii" if wanted == IA5_STRING else "utf-8")
    except UnicodeDecodeError:
        raise DerError("has text that is none") from None
    if not text:
        raise DerError("has a name or value of no characters")
    return text


def _names_der(names: tuple[str, ...]) -> bytes:
    return write_element(SEQUENCE, *(write_element(IA5_STRING, name.encode("ascii")) for name in names))
