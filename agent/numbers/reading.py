"""A number out of the address of a SIP message: sip, sips and tel URIs, in every form that trunks send.

    sip:+12015550123;npdi@gw.example;user=phone      tel:2015550123;phone-context=+1      sip:0114420...@gw

Four stages, each a function below: take the URI apart; decode the user part; settle the country; classify by
the numbering plan. What a number *means* (emergency, listed, assigned) is for the rules. No list is read
here, and nothing raises for what came off the wire: whatever is not a number is NOT_A_NUMBER.

Sources: RFC 3261 19.1.1 and 25.1 (SIP-URI), RFC 3966 (tel), RFC 3323 4.1.1.3 (anonymous), RFC 8224 8.3
(canonical numbers). `agent.numbers.explain` tells the same story in words, from the same functions.
"""

import re
from typing import Final, NamedTuple

from agent import native
from agent.model import NO_NUMBER, Number, NumberKind
from agent.numbers.plan import is_valid

# Digits that one address may hold: E.164's 15, and room for an access prefix and an authorisation code.
MAX_DIALLED: Final = 32
# Digits of an E.164 number, country code included (ITU-T E.164 6.2.1).
MAX_E164: Final = 15
# From this length on, digits without "+" are not taken for a national number of the trunk's country.
LONG_WITHOUT_PLUS: Final = 12
# An international prefix needs a whole number after it: the shortest in use have seven digits.
MIN_AFTER_PREFIX: Final = 7
MAX_SHORT: Final = 6

# RFC 3323 4.1.1.3 knows "anonymous"; the others are what carriers and 3GPP networks write for the same.
ANONYMOUS_USERS: Final = frozenset({"anonymous", "private", "restricted", "unavailable", "unknown"})
ANONYMOUS_HOSTS: Final = frozenset({b"anonymous.invalid", b"unknown.invalid"})
# Codes that some switches send with the country code before them: +1911 and 1911 are calls to 911.
SERVICE_CODES: Final = frozenset({"211", "311", "411", "511", "611", "711", "811", "911", "933", "988"})
# Countries whose national numbers keep their leading zero after the country code (no trunk prefix).
ZERO_IS_PART: Final = frozenset({"39", "225", "229", "241", "242"})

_SEPARATORS: Final = {ord(c): None for c in "-.() "}  # RFC 3966 visual separators, and an escaped space
_DIALLED: Final = re.compile(rf"\+?[0-9*#]{{1,{MAX_DIALLED}}}", re.ASCII)
_PRINTABLE: Final = re.compile(rb"[\x20-\x7e]*")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_CONTEXT: Final = re.compile(r"\+([1-9][0-9]{0,14})", re.ASCII)
_HOST_END: Final = re.compile(rb"[:;?]")
# No host name is digits alone (RFC 3261 25.1, toplabel), so `sip:911` can only mean a user without host.
_USER_WITHOUT_HOST: Final = re.compile(rb"\+?[0-9]{1,%d}" % MAX_DIALLED)
_PLAIN: Final = re.compile(rb"sips?:(?:\+?1)?([1-9][0-9]{9})@")
_COUNTRY: Final = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)

ANONYMOUS: Final = Number(NumberKind.ANONYMOUS, "", -1)
NOT_A_NUMBER: Final = Number(NumberKind.NOT_A_NUMBER, "", -1)


class Address(NamedTuple):
    """A URI taken apart, still escaped. `scheme` is "sip" (also for sips), "tel", or "" for all others."""

    scheme: str
    user: bytes
    parameters: bytes
    host: bytes


class Reading(NamedTuple):
    """A number and the reason why it was read so."""

    number: Number
    why: str


def take_apart(uri: bytes) -> Address:
    """Scheme, user up to the first ";" without password, the user's parameters, and the host without port."""
    head, _, rest = uri.partition(b":")
    scheme = head.lower()
    if scheme == b"tel":
        user, _, parameters = rest.partition(b";")
        return Address("tel", user, parameters, b"")
    if scheme not in {b"sip", b"sips"}:
        return Address("", b"", b"", b"")
    userinfo, at, tail = rest.partition(b"@")
    if not at:
        user, _, parameters = rest.partition(b";")
        if _USER_WITHOUT_HOST.fullmatch(user):
            return Address("sip", user, parameters, b"")
        userinfo, tail = b"", rest
    user, _, parameters = userinfo.partition(b":")[0].partition(b";")
    return Address("sip", user, parameters, _HOST_END.split(tail, maxsplit=1)[0].lower())


def decode(escaped: bytes) -> str | None:
    """The user part without percent escapes; None when it is not printable ASCII, or an escape is broken."""
    if b"%" in escaped:
        if _BAD_ESCAPE.search(escaped):
            return None
        escaped = _ESCAPE.sub(lambda m: bytes((int(m[1], 16),)), escaped)
    # Control characters, NUL and everything outside ASCII end here, also when they came in as escapes.
    return escaped.decode("ascii") if _PRINTABLE.fullmatch(escaped) else None


def phone_context(parameters: bytes) -> str:
    """The digits of `;phone-context=+1201`; "" when there is none, or it is a domain (which is no prefix)."""
    for parameter in parameters.split(b";"):
        name, _, value = parameter.partition(b"=")
        if name.lower() == b"phone-context":
            text = decode(value)
            match = _CONTEXT.fullmatch(text.translate(_SEPARATORS)) if text is not None else None
            return match[1] if match else ""
    return ""


def settle_context(dialled: str, context: str, default_country: str) -> tuple[str, str]:
    """Local digits and their phone-context (RFC 3966 5.1.5) as (digits, country to read them by).

    A context that is a country code replaces the trunk's; a longer one is put before the digits where that
    makes a number. A short code in a long context (911 in +1201) stays the short code it is.
    """
    if not context or dialled.startswith("+"):
        return dialled, default_country
    whole = context + dialled
    if context[0] == "1":
        return (f"+{whole}", "1") if len(context) > 1 and len(whole) == 11 else (dialled, "1")
    if len(context) <= 3:
        return dialled, context
    if len(dialled) > 3 and len(whole) <= MAX_E164:
        return f"+{whole}", ""
    return dialled, ""


def _read(kind: NumberKind, digits: str, why: str) -> Reading:
    """A reading without a national number."""
    return Reading(Number(kind, digits, -1), why)


def _nanp(digits: str) -> Reading:
    """`digits`: 1 and ten digits."""
    national = int(digits[1:])
    if is_valid(national):
        return Reading(Number(NumberKind.NANP, digits, national), "a +1 number of the numbering plan")
    return Reading(Number(NumberKind.NANP_INVALID, digits, national), "a +1 number that the plan does not allow")


def _international(digits: str) -> Reading:
    """Digits that follow a "+" or an international prefix."""
    if digits[0] == "1":
        if len(digits) == 11:
            return _nanp(digits)
        if digits[1:] in SERVICE_CODES:
            return _read(NumberKind.SHORT, digits[1:], "a service code with +1 before it")
        return _read(NumberKind.NANP_INVALID, digits, "country code 1 needs ten digits after it")
    if digits[0] == "0":
        return _read(NumberKind.AMBIGUOUS, digits, "no country code starts with 0")
    if len(digits) == 3:
        return _read(NumberKind.SHORT, digits, "three digits: a short code, in spite of the +")
    if len(digits) > MAX_E164:
        return _read(NumberKind.AMBIGUOUS, digits, f"longer than E.164's {MAX_E164} digits")
    return _read(NumberKind.FOREIGN, digits, "the country code is not 1")


def _after_prefix(digits: str, prefix: str) -> Reading | None:
    """The number behind an international prefix; None when there is no prefix with a number behind it."""
    if not digits.startswith(prefix) or len(digits) < len(prefix) + MIN_AFTER_PREFIX:
        return None
    rest = digits[len(prefix) :]
    return None if rest[0] == "0" else _international(rest)


def _in_nanp(digits: str) -> Reading:
    """Seven or more digits without "+" on a trunk of country 1."""
    if reading := _after_prefix(digits, "011"):
        return reading
    if len(digits) == 10:
        return _nanp("1" + digits)
    if len(digits) == 11 and digits[0] == "1":
        return _nanp(digits)
    return _read(NumberKind.AMBIGUOUS, digits, f"{len(digits)} digits are no number of country 1")


def _in_other_country(digits: str, country: str) -> Reading:
    """Seven or more digits without "+" on a trunk of another country than 1."""
    if reading := _after_prefix(digits, "00"):
        return reading
    if len(digits) >= LONG_WITHOUT_PLUS:
        return _read(NumberKind.AMBIGUOUS, digits, "no +, and too long for a national number")
    national = digits[1:] if digits[0] == "0" and country not in ZERO_IS_PART else digits
    return _read(NumberKind.FOREIGN, country + national, f"a national number of country {country}")


def classify(dialled: str, country: str) -> Reading:
    """What an optional "+", digits, "*" and "#" are, read by a country code ("" for unknown)."""
    if "*" in dialled or "#" in dialled:
        if dialled[0] == "+":
            return Reading(NOT_A_NUMBER, "* or # in an international number")
        return _read(NumberKind.SHORT, dialled, "a code with * or #")
    if dialled[0] == "+":
        return _international(dialled[1:])
    if len(dialled) <= MAX_SHORT:
        if dialled[0] == "1" and dialled[1:] in SERVICE_CODES:
            return _read(NumberKind.SHORT, dialled[1:], "a service code with 1 before it")
        return _read(NumberKind.SHORT, dialled, f"{len(dialled)} digits: a short code")
    if country == "1":
        return _in_nanp(dialled)
    if country:
        return _in_other_country(dialled, country)
    if len(dialled) == 11 and dialled[0] == "1":
        return _nanp(dialled)
    return _read(NumberKind.AMBIGUOUS, dialled, "no + and no default country")


def without_digits(address: Address, user: str) -> Reading:
    """The reading of an address whose user part is not digits: anonymous, a name, or nothing."""
    if user.lower() in ANONYMOUS_USERS:
        return Reading(ANONYMOUS, f'the user part is "{user.lower()}"')
    if address.host in ANONYMOUS_HOSTS:
        return Reading(ANONYMOUS, f"the host is {address.host.decode()}")
    if not address.user:
        return Reading(NO_NUMBER, "there is no user part")
    return Reading(NOT_A_NUMBER, "the user part is not a number")


def check_country(default_country: str) -> None:
    """Raises ValueError unless it is a country code ("1", "44", "353") or "" for none."""
    if default_country not in {"1", ""} and not _COUNTRY.fullmatch(default_country):
        raise ValueError(f"not a country code: {default_country!r}")


def dialled_digits(user: str) -> str:
    """The user part without visual separators, or "" when that is not a dialled number."""
    dialled = user.translate(_SEPARATORS)
    return dialled if _DIALLED.fullmatch(dialled) else ""


def read_number_py(uri: bytes, default_country: str) -> Number:
    """The number of an addr-spec as `Scan.from_uri` holds it. Never raises for bad input from the wire.

    `default_country` is the trunk's, for numbers that come without one: "1", "44", ..., or "" for unknown.
    Raises ValueError when it is not that.
    """
    if default_country == "1" and (plain := _PLAIN.match(uri)):  # nearly every call of a NANP trunk
        return _nanp(f"1{plain[1].decode()}").number
    return read_by_stages(uri, default_country)


def read_by_stages(uri: bytes, default_country: str) -> Number:
    """read_number_py without its short cut, for every form there is; a test holds the two together."""
    check_country(default_country)
    if not uri:
        return NO_NUMBER
    address = take_apart(uri)
    if not address.scheme:
        return NOT_A_NUMBER
    user = decode(address.user)
    if user is None:
        return NOT_A_NUMBER
    dialled = dialled_digits(user)
    if not dialled:
        return without_digits(address, user).number
    if address.parameters:
        dialled, default_country = settle_context(dialled, phone_context(address.parameters), default_country)
    return classify(dialled, default_country).number


read_number = native.numbers.read_number if native.numbers is not None else read_number_py
