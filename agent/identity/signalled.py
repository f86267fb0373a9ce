"""What a PASSporT is compared with, out of an INVITE (RFC 8224 6.2 step 2, 8.3). Knows messages; no token.

The caller's identity comes from the signalling alone: a token is compared with it, and never asked for it.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from math import nan
from typing import Final

from agent.identity.model import SignalledCall
from agent.model import Number, NumberKind, Scan
from agent.numbers.reading import read_number
from agent.policy.emergency import is_psap_callback
from agent.sip.grammar import SIP_DATE
from agent.sip.headers import unfold

# Two asserted identities, one sip and one tel (RFC 3325 9.1); more are nobody's.
_MAX_ASSERTED: Final = 2

# The first Date row with its folds. Date has no compact form.
_DATE_ROW: Final = re.compile(rb"\n[Dd][Aa][Tt][Ee][ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*)")
_MONTHS: Final = (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec")


def signalled(
    message: Scan, calling: Sequence[Number], called: Number, to: Number, country: str = "1"
) -> SignalledCall:
    """The call that an INVITE signals. `calling` is the number that the called party will be shown, or several of
    which orig may be any; if none of them is a number (From is anonymous), the asserted identity counts, since that is
    what a SHAKEN signer signs then (RFC 8224 11).

    `to` may be absent where the Request-URI is a full number, as in `CallAttempt`: then it is read here. `country` is
    the default country of the trunk. A Date that cannot be read becomes NaN, which is fresh at no time.
    """
    numbers = tuple([number.digits for number in calling if number.digits])
    if not numbers:
        numbers = tuple([number.digits for number in _asserted(message, country)])
    if to.kind is NumberKind.ABSENT:
        to = read_number(message.to_uri, country)
    return SignalledCall(
        numbers,
        called.digits,
        to.digits,
        message.call_id,
        message.from_tag,
        read_date(message.raw, message.body_offset),
        is_psap_callback(message.priority),
    )


def callers(message: Scan, country: str = "1") -> tuple[Number, ...]:
    """Who calls, for whom no policy says which peer may assert it: P-Asserted-Identity where there is one, else From
    (ATIS-1000074)."""
    return _asserted(message, country) or (read_number(message.from_uri, country),)


def _asserted(message: Scan, country: str) -> tuple[Number, ...]:
    read = [read_number(uri, country) for uri in message.asserted[:_MAX_ASSERTED]]
    return tuple([number for number in read if number.digits])


def read_date(raw: bytes, end: int) -> float | None:
    """The Date of a message whose header section ends at `end`, in epoch seconds; None if absent, NaN if unreadable."""
    row = _DATE_ROW.search(raw, 0, end)
    if row is None:
        return None
    text = unfold(row[1])
    if not SIP_DATE.fullmatch(text):
        return nan
    day, year, hour, minute, second = map(int, (text[5:7], text[12:16], text[17:19], text[20:22], text[23:25]))
    month = _MONTHS.index(text[8:11].lower()) + 1
    try:
        # A leap second has no place in epoch seconds; it counts as the one before it.
        return datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC).timestamp()
    except ValueError:  # 30 February, hour 24, year 0000
        return nan
