"""What the Identity rows of a call claim, before anything is fetched or believed. Knows rows, tokens and URLs.

Each row is read as far as it goes: parameters, token, header and claims, and whether its certificate may be fetched
from where it says. Knows neither the call nor the time.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from agent.identity.claims import SHAKEN, SUPPORTED, Claims
from agent.identity.model import Failure
from agent.identity.passport import Passport, PassportReader
from agent.identity.plain import take_apart
from agent.identity.recent import Recent
from agent.identity.rows import IdentityRow, read_rows
from agent.identity.x5u import check_url
from agent.model import ParseError

_SHAKEN_PARAMETERS: Final = frozenset({"info", "alg", "ppt"})
# Bytes. A longer one is read anew each time, so that nobody fills memory with them.
_MAX_PARAMETERS: Final = 512


class Stage(IntEnum):
    """How far a row got: the later the check that it failed, the more of it was good. A replay was good in all else,
    and outdoes a good row: who replays one token of a call cannot clear himself with another."""

    IGNORED = 0
    UNREADABLE = 1
    NO_URL = 2
    STALE = 3
    UNFETCHED = 4
    UNTRUSTED = 5
    FORGED = 6
    FORBIDDEN = 7
    OTHER_CALL = 8
    GOOD = 9
    REPLAYED = 10


class ReadRow(NamedTuple):
    """An Identity row and its PASSporT; without one, `failure` and `why` say what is wrong.

    `stated` and `url` are ppt and info of the row as sent; `ppt` is what it was read as, "" if that is not known.
    """

    stated: str
    url: str
    ppt: str
    passport: Passport | None
    stage: Stage = Stage.GOOD
    failure: Failure | None = None
    why: str = ""


class Claimed(NamedTuple):
    """What the rows of a call claim. `urls`: where the certificates are that must be fetched, each once."""

    rows: tuple[ReadRow, ...]
    urls: tuple[str, ...]


NOTHING_CLAIMED: Final = Claimed((), ())


class RowReader:
    """Reads rows, strictly or leniently (see VerifierSettings), and remembers headers and parameters that were good."""

    def __init__(self, ports: Sequence[int], *, lenient: bool = False) -> None:
        self._ports = tuple(ports)
        self._lenient = lenient
        self._passports = PassportReader(lenient=lenient)
        # What follows the token is the same in all calls of a signer: info and ppt of parameters that were found good,
        # by the bytes in which they came.
        self._known: Recent[bytes, tuple[str, str]] = Recent()

    def read(self, values: Sequence[bytes]) -> Claimed:
        """Take the values of the Identity header (`Scan.identity`) apart. Never raises."""
        if not values:
            return NOTHING_CLAIMED
        if len(values) == 1 and (plain := self._read_plain(values[0])) is not None:
            return Claimed((plain,), (plain.url,))
        split = read_rows(values)
        rows = tuple([self._read_row(row) for row in split])
        if len(values) == len(rows) == 1 and rows[0].passport is not None:
            self._learn(split[0])
        return Claimed(rows, tuple(dict.fromkeys([row.passport.x5u for row in rows if row.passport is not None])))

    def _learn(self, row: IdentityRow) -> None:
        parameters = row.raw.partition(b";")[2]
        if len(parameters) <= _MAX_PARAMETERS:
            self._known.put(parameters, (row.url, row.ppt))

    def _read_plain(self, value: bytes) -> ReadRow | None:
        """The short way to what `_read_row` gives, for plain SHAKEN behind which stand parameters that were good
        before; None if it must go the long way."""
        plain = take_apart(value)
        if plain is None:
            return None
        encoded, payload, signature, signed, parameters, attest, dest, iat, orig, origid = plain
        known = self._known.get(parameters)
        if known is None:
            return None
        url, stated = known
        try:
            ppt, x5u, members = self._passports.header(encoded)
        except ParseError:
            return None
        if ppt != SHAKEN or x5u != url or (stated != ppt and stated and stated.lower() != ppt):
            return None
        claims = Claims(iat, orig, (dest,), (), attest, origid)
        return ReadRow(stated, x5u, ppt, Passport(ppt, x5u, claims, members, payload, signed, signature))

    def _read_row(self, row: IdentityRow) -> ReadRow:
        ppt = row.ppt.lower()  # a token of SIP is the same in any case (RFC 3261 7.3.1)
        if ppt and ppt not in SUPPORTED:
            return _refused(row, ppt, Stage.IGNORED, Failure.MISSING, "a PASSporT type that is not supported")
        if fault := row.fault or self._parameter_fault(row, ppt):
            return _refused(row, ppt, Stage.UNREADABLE, Failure.INVALID, fault)
        try:
            passport = self._passports.read(row.token)
        except ParseError as error:
            return _refused(row, ppt, Stage.UNREADABLE, Failure.INVALID, f"{error.place}: {error.reason}")
        if ppt and passport.ppt != ppt:
            return _refused(row, ppt, Stage.UNREADABLE, Failure.INVALID, "ppt differs from that of the PASSporT")
        if why := self._url_fault(row.url, passport.x5u):
            return _refused(row, passport.ppt, Stage.NO_URL, Failure.INFO, why)
        return ReadRow(row.ppt, row.url, passport.ppt, passport)

    def _parameter_fault(self, row: IdentityRow, ppt: str) -> str:
        """RFC 8224 4 makes alg (then ES256) and ppt optional and lets others stand; SHAKEN has just these three."""
        if row.alg.upper() != "ES256" and (row.alg or not self._lenient):
            return "alg is not ES256" if row.alg else "no alg parameter"
        if self._lenient:
            return ""
        if not ppt:
            return "no ppt parameter"
        if len(row.params) > 3:
            extra = next(name for name, _ in row.params if name not in _SHAKEN_PARAMETERS)
            return f'parameter "{extra}" besides info, alg and ppt'
        return ""

    def _url_fault(self, info: str, x5u: str) -> str:
        if not info:
            return "no info parameter"
        if info != x5u:  # RFC 8224 4.1: simple string comparison
            return "info differs from x5u"
        return check_url(info, self._ports)


def _refused(row: IdentityRow, ppt: str, stage: Stage, failure: Failure, why: str) -> ReadRow:
    return ReadRow(row.ppt, row.url, ppt, None, stage, failure, why)
