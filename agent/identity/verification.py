"""The verification service of RFC 8224 6.2 and ATIS-1000074 for one call: what are its Identity rows worth?

Two steps with the fetching of certificates between them, which is not done here: `read` takes the rows apart and names
the URLs to be fetched; `judge` takes what was found there, the signalling and the time. Neither raises for anything
that came off the wire. The rows of a call are unordered; one good SHAKEN PASSporT suffices, and if there is none the
failure told is that of the row that got furthest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from agent.identity.checks import other_callee, other_caller, outside_constraints, stale, unusable
from agent.identity.claims import DIV, SHAKEN
from agent.identity.diversion import find_chain
from agent.identity.jws import verify_es256
from agent.identity.model import (
    NOT_SIGNED,
    Credential,
    Failure,
    RowCheck,
    SignalledCall,
    Unreachable,
    Verification,
)
from agent.identity.passport import Passport
from agent.identity.reading import Claimed, ReadRow, RowReader, Stage
from agent.identity.recent import Recent
from agent.identity.replay import ReplayCache

MAX_TRANSFER: Final = 3 * 3600.0
"""Seconds that the original PASSporT and inner diversions of a diverted call may be old: a call can ring, be talked on
and then be transferred, and its iat is copied. The outermost one is held to the freshness window."""

PORTS: Final = (443, 8443)
"""Ports that an x5u may name (ATIS-1000074 5.3.1)."""

_NOT_FETCHED: Final = Unreachable("the certificate was not fetched")


@dataclass(frozen=True, slots=True)
class VerifierSettings:
    """`freshness`: seconds that iat and Date may be off, either way (RFC 8224 6.2 recommends 60). `ports`: those that
    an x5u may name.

    Strict is the profile of SHAKEN: exactly the parameters info, alg and ppt, claims in their RFCs' form, a Date that
    is as fresh as iat. `lenient` also takes rows without alg or ppt and with other parameters, as RFC 8224 allows,
    iat and dest as strings, and a stale Date beside a fresh iat (RFC 8224 6.2 step 4).
    """

    freshness: float = 60.0
    lenient: bool = False
    ports: tuple[int, ...] = PORTS


class _Outcome(NamedTuple):
    """What became of one row. `failure` None: a good token, by a credential to rely on, of this call."""

    stage: Stage
    failure: Failure | None
    why: str
    spc: str = ""


class Verifier:
    """Verifies calls under one set of settings. Keeps what was read and verified lately, and which tokens were shown.

    `judge` may run in several threads: the ES256 inside it releases the interpreter. `signatures` counts those that
    had to be computed, approximately if there are threads.
    """

    def __init__(self, settings: VerifierSettings, replay: ReplayCache) -> None:
        self.settings = settings
        self.replay = replay
        self.signatures = 0
        self._reader = RowReader(settings.ports, lenient=settings.lenient)
        self._verified: Recent[tuple[bytes, bytes, str], bool] = Recent()

    def read(self, values: Sequence[bytes]) -> Claimed:
        """Take the values of the Identity header (`Scan.identity`) apart. Never raises."""
        return self._reader.read(values)

    def judge(
        self,
        claimed: Claimed,
        credentials: Mapping[str, Credential | Unreachable],
        call: SignalledCall,
        when: float,
    ) -> Verification:
        """What the rows are worth for this call at `when` (epoch seconds). Never raises for what came off the wire.

        `credentials` has what was found under each of `claimed.urls`. It remembers that this call showed its tokens:
        the same call (Call-ID and From tag) may show them again, another one is a replay.
        """
        rows = claimed.rows
        if not rows:
            return NOT_SIGNED
        case = _Case(self, credentials, call, when, any(row.ppt == DIV for row in rows))
        outcomes = [case.check(row) for row in rows]
        if case.diverted:
            case.diversions = [
                (row.passport, outcome) for row, outcome in zip(rows, outcomes, strict=True) if row.ppt == DIV
            ]
        placed = [case.place(row, outcome) for row, outcome in zip(rows, outcomes, strict=True)]
        return _conclude(rows, placed)

    def is_signed(self, passport: Passport, credential: Credential) -> bool:
        """Whether the signature is that of the credential; computed once per token and key."""
        # The whole of what is signed is in the key: a known signature says nothing of other claims.
        key = (passport.signed, passport.signature, credential.sha256)
        known = self._verified.get(key)
        if known is None:
            self.signatures += 1
            public_key = credential.public_key
            known = public_key is not None and verify_es256(public_key, passport.signed, passport.signature)
            self._verified.put(key, known)
        return known


class _Case:
    """One call before the verifier. `diversions` are the div rows with what became of each by itself."""

    __slots__ = ("call", "credentials", "diversions", "diverted", "verifier", "when")

    def __init__(
        self,
        verifier: Verifier,
        credentials: Mapping[str, Credential | Unreachable],
        call: SignalledCall,
        when: float,
        diverted: bool,
    ) -> None:
        self.verifier = verifier
        self.credentials = credentials
        self.call = call
        self.when = when
        self.diverted = diverted
        self.diversions: Sequence[tuple[Passport | None, _Outcome]] = ()

    def check(self, row: ReadRow) -> _Outcome:
        """One row by itself: fresh, signed under a credential to rely on, and about this caller."""
        passport = row.passport
        if passport is None:
            return _Outcome(row.stage, row.failure, row.why)
        if why := self._stale(passport):
            return _Outcome(Stage.STALE, Failure.STALE, why)
        credential = self.credentials.get(passport.x5u, _NOT_FETCHED)
        if isinstance(credential, Unreachable):
            return _Outcome(Stage.UNFETCHED, Failure.UNREACHABLE, credential.why)
        spc = credential.spc
        if why := unusable(credential, passport.claims.iat, self.when):
            return _Outcome(Stage.UNTRUSTED, Failure.CREDENTIAL, why, spc)
        if not self.verifier.is_signed(passport, credential):
            return _Outcome(Stage.FORGED, Failure.INVALID, "the signature is not that of the certificate", spc)
        if why := outside_constraints(credential, passport.payload):
            return _Outcome(Stage.FORBIDDEN, Failure.CREDENTIAL, why, spc)
        if why := other_caller(passport.claims, self.call):
            return _Outcome(Stage.OTHER_CALL, Failure.MISMATCH, why, spc)
        return _Outcome(Stage.GOOD, None, "", spc)

    def _stale(self, passport: Passport) -> str:
        settings, date = self.verifier.settings, self.call.date
        in_chain = self.diverted and passport.ppt in {SHAKEN, DIV}
        freshness = MAX_TRANSFER if in_chain else settings.freshness
        why = stale("iat", passport.claims.iat, self.when, freshness)
        if not why and date is not None and not settings.lenient:
            why = stale("Date", date, self.when, freshness)
        return why

    def place(self, row: ReadRow, outcome: _Outcome) -> _Outcome:
        """A row that is good by itself: is it for this destination, and does this call show it first?"""
        passport = row.passport
        if passport is None or outcome.failure is not None or passport.ppt == DIV:
            return outcome
        outermost = passport
        if self.diverted and passport.ppt == SHAKEN:
            found = self._outermost(passport)
            if isinstance(found, _Outcome):
                return found._replace(spc=outcome.spc)
            outermost = found
        elif why := other_callee(passport.claims, self.call):
            return _Outcome(Stage.OTHER_CALL, Failure.MISMATCH, why, outcome.spc)
        if passport.claims.psap_callback and not self.call.psap_callback:  # RFC 9027 3
            return _Outcome(Stage.OTHER_CALL, Failure.MISMATCH, "Priority is not psap-callback", outcome.spc)
        call = self.call
        if not self.verifier.replay.show(outermost.signature, call.call_id, call.from_tag, self.when):
            return _Outcome(Stage.REPLAYED, Failure.REPLAYED, "another call has shown this token", outcome.spc)
        return outcome

    def _outermost(self, original: Passport) -> Passport | _Outcome:
        """The last token of the chain that leads from the original to the Request-URI (RFC 8946 5), if it is fresh."""
        good = [div for div, outcome in self.diversions if div is not None and outcome.failure is None]
        called = self.call.called or self.call.to
        chain = find_chain(original.claims, [div.claims for div in good], called)
        if chain is None:
            return self._broken_chain(called)
        outermost = good[chain[-1]] if chain else original
        freshness = self.verifier.settings.freshness
        if why := stale("iat of the last diversion" if chain else "iat", outermost.claims.iat, self.when, freshness):
            return _Outcome(Stage.STALE, Failure.STALE, why)
        return outermost

    def _broken_chain(self, called: str) -> _Outcome:
        """Blames the div row that got furthest and failed; if none failed, the numbers."""
        failed = [outcome for _, outcome in self.diversions if outcome.failure is not None]
        if failed:
            worst = max(failed, key=lambda outcome: outcome.stage)
            return _Outcome(Stage.OTHER_CALL, worst.failure, f"diversion: {worst.why}")
        why = f"no chain of diversions leads to {called or 'the Request-URI, which holds no number'}"
        return _Outcome(Stage.OTHER_CALL, Failure.MISMATCH, why)


def _conclude(rows: Sequence[ReadRow], outcomes: Sequence[_Outcome]) -> Verification:
    """What the rows amount to together (RFC 8224 6.2.1): one good PASSporT suffices, unless one is a replay."""
    checks = tuple(
        [
            RowCheck(row.row.ppt, row.row.url, outcome.failure, outcome.why, outcome.spc)
            for row, outcome in zip(rows, outcomes, strict=True)
        ]
    )
    psap_callback = any(
        row.passport is not None and row.passport.claims.psap_callback and outcome.failure is None
        for row, outcome in zip(rows, outcomes, strict=True)
    )
    # A row that cannot be read and names no type may have been meant as shaken.
    callers = [i for i, row in enumerate(rows) if row.ppt in {SHAKEN, ""}]
    if not callers:
        types = ", ".join(dict.fromkeys([row.ppt for row in rows]))
        why = f"no PASSporT of type shaken, only {types}"
        return Verification(Failure.MISSING, why, rows=checks, psap_callback=psap_callback)
    best = max(callers, key=lambda i: _merit(rows[i], outcomes[i]))
    passport, (_, failure, why, spc) = rows[best].passport, outcomes[best]
    attest = origid = ""
    if passport is not None:
        attest, origid = passport.claims.attest, passport.claims.origid
    return Verification(failure, why or f"attested {attest} by {spc}", attest, spc, origid, checks, psap_callback)


def _merit(row: ReadRow, outcome: _Outcome) -> tuple[int, int]:
    """Which row speaks for the call: the one that got furthest; of two good ones that with the higher attestation."""
    return outcome.stage, -ord(row.passport.claims.attest) if row.passport is not None else 0
