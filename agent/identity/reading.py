"""What the Identity rows of a call claim, before anything is fetched or believed. Knows rows, tokens and URLs.

Each row is read as far as it goes: parameters, token, header and claims, and whether its certificate may be fetched
from where it says. Knows neither the call nor the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from agent.identity.claims import SUPPORTED
from agent.identity.model import Failure
from agent.identity.passport import Passport, PassportReader
from agent.identity.recent import Recent
from agent.identity.rows import IdentityRow, read_rows
from agent.identity.x5u import check_url
from agent.model import ParseError

_SHAKEN_PARAMETERS: Final = frozenset({"info", "alg", "ppt"})


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
    """An Identity row and its PASSporT; without one, `failure` and `why` say what is wrong."""

    row: IdentityRow
    ppt: str
    passport: Passport | None
    stage: Stage = Stage.GOOD
    failure: Failure | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What the rows of a call claim. `urls`: where the certificates are that must be fetched, each once."""

    rows: tuple[ReadRow, ...]
    urls: tuple[str, ...]


NOTHING_CLAIMED: Final = Claimed((), ())


class RowReader:
    """Reads rows, strictly or leniently (see VerifierSettings), and remembers headers and URLs that were good."""

    def __init__(self, ports: Sequence[int], *, lenient: bool = False) -> None:
        self._ports = tuple(ports)
        self._lenient = lenient
        self._passports = PassportReader(lenient=lenient)
        self._good_urls: Recent[str, bool] = Recent()

    def read(self, values: Sequence[bytes]) -> Claimed:
        """Take the values of the Identity header (`Scan.identity`) apart. Never raises."""
        if not values:
            return NOTHING_CLAIMED
        rows = tuple([self._read_row(row) for row in read_rows(values)])
        return Claimed(rows, tuple(dict.fromkeys([row.passport.x5u for row in rows if row.passport is not None])))

    def _read_row(self, row: IdentityRow) -> ReadRow:
        ppt = row.ppt.lower()  # a token of SIP is the same in any case (RFC 3261 7.3.1)
        if ppt and ppt not in SUPPORTED:
            return ReadRow(row, ppt, None, Stage.IGNORED, Failure.MISSING, "a PASSporT type that is not supported")
        if fault := row.fault or self._parameter_fault(row, ppt):
            return _unreadable(row, ppt, fault)
        try:
            passport = self._passports.read(row.token)
        except ParseError as error:
            return _unreadable(row, ppt, f"{error.place}: {error.reason}")
        if ppt and passport.ppt != ppt:
            return _unreadable(row, ppt, "ppt differs from that of the PASSporT")
        if why := self._url_fault(row.url, passport.x5u):
            return ReadRow(row, passport.ppt, None, Stage.NO_URL, Failure.INFO, why)
        return ReadRow(row, passport.ppt, passport)

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
        if self._good_urls.get(info) is None:
            if why := check_url(info, self._ports):
                return why
            self._good_urls.put(info, True)
        return ""


def _unreadable(row: IdentityRow, ppt: str, why: str) -> ReadRow:
    return ReadRow(row, ppt, None, Stage.UNREADABLE, Failure.INVALID, why)
