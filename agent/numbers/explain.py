"""How a number is read, step by step in words: the same stages as agent.numbers.reading, with their reasons.

For people at a command line. Decides nothing of its own: every step quotes what a stage of the reader
returned.
"""

import re
from typing import Final

from agent.model import Number, NumberKind
from agent.numbers.plan import Judgement, judge
from agent.numbers.reading import (
    check_country,
    classify,
    decode,
    dialled_digits,
    phone_context,
    read_number_py,
    settle_context,
    take_apart,
    without_digits,
)

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_NAME_ADDR: Final = re.compile(r"[^<]*<([^<>]*)>.*", re.DOTALL)


def as_uri(text: str) -> bytes:
    """What a person typed, as a URI: `<...>` taken off, "tel:" put before digits, "sip:" before user@host.

    Characters outside ASCII stay (as UTF-8), so that they are refused where a message's would be.
    """
    text = text.strip()
    if match := _NAME_ADDR.fullmatch(text):
        text = match[1].strip()
    if text and not _SCHEME.match(text):
        text = ("sip:" if "@" in text else "tel:") + text
    return text.encode("utf-8", "surrogateescape")


def _show(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def explain(text: str, default_country: str) -> list[str]:
    """The steps by which `text` (bare digits or a URI) is read, the last one being what it is.

    Raises ValueError when `default_country` is neither a country code nor "".
    """
    check_country(default_country)
    uri = as_uri(text)
    steps = [f"the URI is {_show(uri)}"] if uri != text.encode("utf-8", "surrogateescape") else []
    steps += _stages(uri, default_country)
    return [*steps, _conclusion(read_number_py(uri, default_country))]


def _stages(uri: bytes, default_country: str) -> list[str]:
    if not uri:
        return ["there is no URI"]
    address = take_apart(uri)
    if not address.scheme:
        return ["the scheme is none of sip, sips and tel"]
    steps = [f"scheme {address.scheme}, user part {_show(address.user) or '(none)'}"]
    if address.parameters:
        steps.append(f"cut off: ;{_show(address.parameters)}")
    user = decode(address.user)
    if user is None:
        return [*steps, "the user part has a broken escape, a control character or a character outside ASCII"]
    dialled = dialled_digits(user)
    if not dialled:
        return [*steps, without_digits(address, user).why]
    if dialled != _show(address.user):
        steps.append(f"without escapes and visual separators: {dialled}")
    dialled, country = _country(dialled, phone_context(address.parameters), default_country, steps)
    return [*steps, classify(dialled, country).why]


def _country(dialled: str, context: str, default_country: str, steps: list[str]) -> tuple[str, str]:
    """Settle the country and say how."""
    whole, country = settle_context(dialled, context, default_country)
    if dialled.startswith("+"):
        steps.append("a + stands before the country code")
    elif context and whole != dialled:
        steps.append(f"phone-context +{context} goes before the digits: {whole}")
    elif context:
        steps.append(f"phone-context +{context}: read as country {country or 'unknown'}")
    elif country:
        steps.append(f"no country code stated: the default country is {country}")
    return whole, country


def _conclusion(number: Number) -> str:
    judgement = plan_of(number)
    said = f"{number.kind.name}: {number.digits}" if number.digits else number.kind.name
    return f"{said} ({judgement.reason})" if judgement and judgement.reason else said


def plan_of(number: Number) -> Judgement | None:
    """What the numbering plan says of a +1 number; None for every other."""
    if number.kind not in {NumberKind.NANP, NumberKind.NANP_INVALID}:
        return None
    return judge(number.national if number.national >= 0 else number.digits[1:])
