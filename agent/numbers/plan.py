"""The North American Numbering Plan: which ten digits are a number, and what kind of number they are.

    NPA NXX XXXX      NPA = [2-9]XX, not N11, not N9X (kept for longer numbers), not 37X and 96X (set aside)
                      NXX = [2-9]XX, not N11

That leaves 692 area codes, 792 exchange codes and 5,480,640,000 numbers. A number that fails this is invalid
by its form: no list is needed to know it (47 CFR 64.1200(o), "not valid"). Whether a valid number is
*allocated* is not known here.

Takes digits or integers, never a URI: `agent.numbers.reading` makes numbers out of those.
"""

import re
from enum import StrEnum
from typing import Final, NamedTuple

from agent.numbers.areas import UNKNOWN_AREA, Area, area_of

NATIONAL_NUMBERS: Final = 10**10  # all strings of ten digits

_TEN_DIGITS: Final = re.compile(r"[0-9]{10}", re.ASCII)


def _npa_reason(npa: int) -> str:
    """Why the plan does not allow this area code; "" when it does."""
    if npa < 200:
        return f"NPA {npa:03d} starts with {npa // 100}"
    if npa % 100 == 11:
        return f"NPA {npa} is an N11 code"
    if npa // 10 % 10 == 9:
        return f"NPA {npa} has the middle digit 9, kept for longer numbers"
    if npa // 10 in (37, 96):
        return f"NPA {npa} is in the block {npa // 10}X, which is set aside"
    return ""


def _nxx_reason(nxx: int) -> str:
    """Why the plan does not allow this exchange code; "" when it does."""
    if nxx < 200:
        return f"NXX {nxx:03d} starts with {nxx // 100}"
    if nxx % 100 == 11:
        return f"NXX {nxx} is an N11 code"
    return ""


NPA_REASONS: Final = tuple(_npa_reason(npa) for npa in range(1000))
NXX_REASONS: Final = tuple(_nxx_reason(nxx) for nxx in range(1000))
# bytes, not sets: one index per question, and the compiled twin is built from the same rule.
VALID_NPA: Final = bytes(not reason for reason in NPA_REASONS)
VALID_NXX: Final = bytes(not reason for reason in NXX_REASONS)

TOLL_FREE_NPAS: Final = frozenset({800, 833, 844, 855, 866, 877, 888})
TOLL_FREE_RESERVED_NPAS: Final = frozenset({822, 889, *range(880, 888)})
PERSONAL_NPAS: Final = frozenset({500, *range(521, 530), 533, 544, 566, 577, 588})
CANADA_NON_GEOGRAPHIC_NPAS: Final = frozenset({600, 622, 633, 644, 655, 677, 688})


class Service(StrEnum):
    """What a number's area code is used for."""

    INVALID = "invalid"
    GEOGRAPHIC = "geographic"
    TOLL_FREE = "toll-free"
    TOLL_FREE_RESERVED = "reserved for toll-free, not in use"
    PREMIUM = "premium rate"
    PERSONAL = "personal or machine, non-geographic"
    CANADA_NON_GEOGRAPHIC = "non-geographic, Canada"
    CARRIER = "carrier services"
    GOVERNMENT = "United States government"
    UNKNOWN = "area code not known to be in use"


_FIXED_SERVICES: Final = {
    **dict.fromkeys(TOLL_FREE_NPAS, Service.TOLL_FREE),
    **dict.fromkeys(TOLL_FREE_RESERVED_NPAS, Service.TOLL_FREE_RESERVED),
    **dict.fromkeys(PERSONAL_NPAS, Service.PERSONAL),
    **dict.fromkeys(CANADA_NON_GEOGRAPHIC_NPAS, Service.CANADA_NON_GEOGRAPHIC),
    700: Service.CARRIER,
    710: Service.GOVERNMENT,
    900: Service.PREMIUM,
}


class Judgement(NamedTuple):
    """What the plan says of ten digits.

    `reason` says why they are not valid, or what is special about them, in words ("" for nothing special);
    `easily_recognisable` is an area code that ends in two equal digits.
    """

    valid: bool
    reason: str
    service: Service
    area: Area
    easily_recognisable: bool


def ten_digits(national: int | str) -> int:
    """A national number as an integer; -1 when the text is not ten ASCII digits, or the int has more."""
    if isinstance(national, str):
        return int(national) if _TEN_DIGITS.fullmatch(national) else -1
    return national if 0 <= national < NATIONAL_NUMBERS else -1


def is_valid(national: int | str) -> bool:
    """Whether the numbering plan allows this number: text of ten ASCII digits, or the same as an int."""
    number = ten_digits(national)
    return number >= 0 and bool(VALID_NPA[number // 10_000_000] and VALID_NXX[number // 10_000 % 1000])


def is_fictitious(national: int) -> bool:
    """555-0100 to 555-0199 in any area code: set aside for fiction, never assigned to anybody."""
    return 555_0100 <= national % 10_000_000 <= 555_0199


def _special(number: int) -> str:
    """What is special about a valid number's exchange code; "" for most."""
    nxx, line = number // 10_000 % 1000, number % 10_000
    if nxx == 555:
        if line == 1212:
            return "555-1212 is directory assistance"
        if is_fictitious(number):
            return "555-01XX is set aside for fiction"
        return "NXX 555 has no ordinary subscribers"
    return {
        950: "NXX 950 is carrier access (Feature Group B)",
        958: "NXX 958 is for testing",
        959: "NXX 959 is for testing",
        976: "NXX 976 is pay-per-call information",
    }.get(nxx, "")


def judge(national: int | str) -> Judgement:
    """Everything the plan says about a national number; see Judgement."""
    number = ten_digits(national)
    if number < 0:
        return Judgement(False, "not ten digits", Service.INVALID, UNKNOWN_AREA, False)
    npa, nxx = number // 10_000_000, number // 10_000 % 1000
    easy = npa % 100 // 10 == npa % 10
    reason = NPA_REASONS[npa] or NXX_REASONS[nxx]
    area = area_of(npa)
    if reason:
        return Judgement(False, reason, Service.INVALID, area, easy)
    service = _FIXED_SERVICES.get(npa)
    if service is None:
        service = Service.GEOGRAPHIC if area is not UNKNOWN_AREA else Service.UNKNOWN
    return Judgement(True, _special(number), service, area, easy)
