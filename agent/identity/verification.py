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
from agent.identity.claims import DIV, NO_CLAIMS, SHAKEN
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
from agent.identity.x5u import PORTS

MAX_TRANSFER: Final = 3 * 3600.0
"""Seconds that the original PASSporT and inner diversions of a diverted call may be old: a call can ring, be talked on
and then be transferred, and its iat is copied. The outermost one is held to the freshness window."""

# Bytes of a token that is kept with what became of its signature, so that nobody fills memory: 8 MB at most.
_MAX_KEPT: Final = 2048

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


_IN_CHAINS: Final = frozenset({SHAKEN, DIV})
_NO_OUTCOME: Final = _Outcome(Stage.IGNORED, Failure.MISSING, "")
_GOOD: Final = Stage.GOOD  # a member of an enumeration takes longer to find than a global


class Verifier:
    """Verifies calls under one set of settings. Keeps what was read and verified lately, and which tokens were shown.

    `judge` may run in several threads: the ES256 inside it releases the interpreter. `signatures` counts those that
    had to be computed, approximately if there are threads.
    """

    def __init__(self, settings: VerifierSettings, replay: ReplayCache) -> None:
        self.settings = settings
        self.replay = replay
        self.signatures = 0
        self._freshness, self._lenient = settings.freshness, settings.lenient
        self._reader = RowReader(settings.ports, lenient=settings.lenient)
        self._verified: Recent[bytes, tuple[bytes, str, bool]] = Recent()

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
        freshness = self._freshness
        if len(rows) == 1:  # most calls: there can be no diversion
            outcome = self._check(rows[0], credentials, call, when, freshness)
            if outcome.stage == _GOOD:
                outcome = self._place(rows[0].passport, outcome, call, when)
            return _conclude(rows, (outcome,))
        chain = _Chain(call, when, freshness) if any(row.ppt == DIV for row in rows) else None
        outcomes = []
        for row in rows:
            oldest = MAX_TRANSFER if chain is not None and row.ppt in _IN_CHAINS else freshness
            outcomes.append(self._check(row, credentials, call, when, oldest))
        if chain is not None:
            chain.diversions = [
                (row.passport, outcome) for row, outcome in zip(rows, outcomes, strict=True) if row.ppt == DIV
            ]
        for index, (row, outcome) in enumerate(zip(rows, outcomes, strict=True)):
            if outcome.stage == _GOOD and row.ppt != DIV:
                outcomes[index] = self._place(row.passport, outcome, call, when, chain)
        return _conclude(rows, outcomes)

    def _check(
        self,
        row: ReadRow,
        credentials: Mapping[str, Credential | Unreachable],
        call: SignalledCall,
        when: float,
        freshness: float,
    ) -> _Outcome:
        """One row by itself: fresh, signed under a credential to rely on, and about this caller."""
        passport = row.passport
        if passport is None:
            return _Outcome(row.stage, row.failure, row.why)
        claims, iat = passport.claims, passport.claims.iat
        if why := stale("iat", iat, when, freshness):
            return _Outcome(Stage.STALE, Failure.STALE, why)
        if call.date is not None and not self._lenient and (why := stale("Date", call.date, when, freshness)):
            return _Outcome(Stage.STALE, Failure.STALE, why)
        credential = credentials.get(passport.x5u, _NOT_FETCHED)
        if isinstance(credential, Unreachable):
            return _Outcome(Stage.UNFETCHED, Failure.UNREACHABLE, credential.why)
        spc = credential.spc
        if why := unusable(credential, iat, when):
            return _Outcome(Stage.UNTRUSTED, Failure.CREDENTIAL, why, spc)
        if not self._is_signed(passport, credential):
            return _Outcome(Stage.FORGED, Failure.INVALID, "the signature is not that of the certificate", spc)
        if why := outside_constraints(credential, passport):
            return _Outcome(Stage.FORBIDDEN, Failure.CREDENTIAL, why, spc)
        if why := other_caller(claims, call):
            return _Outcome(Stage.OTHER_CALL, Failure.MISMATCH, why, spc)
        return _Outcome(_GOOD, None, "", spc)

    def _is_signed(self, passport: Passport, credential: Credential) -> bool:
        """Whether the signature is that of the credential; computed once per token and key."""
        _, _, _, _, _, signed, signature = passport
        known = self._verified.get(signature)
        # A signature that is known says nothing of other claims, nor under another key.
        if known is not None and known[0] == signed and known[1] == credential.sha256:
            return known[2]
        self.signatures += 1
        public_key = credential.public_key
        verified = public_key is not None and verify_es256(public_key, signed, signature)
        if len(signed) <= _MAX_KEPT:
            self._verified.put(signature, (signed, credential.sha256, verified))
        return verified

    def _place(
        self,
        passport: Passport | None,
        good: _Outcome,
        call: SignalledCall,
        when: float,
        chain: "_Chain | None" = None,
    ) -> _Outcome:
        """A row that is good by itself: is it for this destination, and does this call show it first?"""
        assert passport is not None
        outermost = passport
        if chain is not None and passport.ppt == SHAKEN:
            found = chain.outermost(passport)
            if isinstance(found, _Outcome):
                return found._replace(spc=good.spc)
            outermost = found
        elif why := other_callee(passport.claims, call):
            return _Outcome(Stage.OTHER_CALL, Failure.MISMATCH, why, good.spc)
        if passport.claims.psap_callback and not call.psap_callback:  # RFC 9027 3
            return _Outcome(Stage.OTHER_CALL, Failure.MISMATCH, "Priority is not psap-callback", good.spc)
        if not self.replay.show(outermost.signature, call.call_id, call.from_tag, when):
            return _Outcome(Stage.REPLAYED, Failure.REPLAYED, "another call has shown this token", good.spc)
        return good


class _Chain:
    """The div rows of one call (RFC 8946), with what became of each by itself."""

    __slots__ = ("_call", "_freshness", "_when", "diversions")

    def __init__(self, call: SignalledCall, when: float, freshness: float) -> None:
        self._call = call
        self._when = when
        self._freshness = freshness
        self.diversions: Sequence[tuple[Passport | None, _Outcome]] = ()

    def outermost(self, original: Passport) -> Passport | _Outcome:
        """The last token on the way from the original to the Request-URI (RFC 8946 5), if it is fresh."""
        good = [div for div, outcome in self.diversions if div is not None and outcome.failure is None]
        called = self._call.called or self._call.to
        chain = find_chain(original.claims, [div.claims for div in good], called)
        if chain is None:
            return self._broken(called)
        outermost = good[chain[-1]] if chain else original
        what = "iat of the last diversion" if chain else "iat"
        if why := stale(what, outermost.claims.iat, self._when, self._freshness):
            return _Outcome(Stage.STALE, Failure.STALE, why)
        return outermost

    def _broken(self, called: str) -> _Outcome:
        """Blames the div row that got furthest and failed; if none failed, the numbers."""
        failed = [outcome for _, outcome in self.diversions if outcome.failure is not None]
        if failed:
            worst = max(failed, key=lambda outcome: outcome.stage)
            return _Outcome(Stage.OTHER_CALL, worst.failure, f"diversion: {worst.why}")
        why = f"no chain of diversions leads to {called or 'the Request-URI, which holds no number'}"
        return _Outcome(Stage.OTHER_CALL, Failure.MISMATCH, why)


def _conclude(rows: Sequence[ReadRow], outcomes: Sequence[_Outcome]) -> Verification:
    """What the rows amount to together (RFC 8224 6.2.1): one good PASSporT suffices, unless one is a replay.

    The row that got furthest speaks for the call; of two good ones, that with the higher attestation.
    """
    checks = []
    psap_callback = False
    furthest, attest, origid, best = -1, "", "", _NO_OUTCOME
    for (stated, url, ppt, passport, _, _, _), outcome in zip(rows, outcomes, strict=True):
        stage, failure, why, spc = outcome
        checks.append(RowCheck(stated, url, failure, why, spc))
        claims = passport.claims if passport is not None else NO_CLAIMS
        if ppt == SHAKEN or not ppt:  # what cannot be read and names no type may have been meant as shaken
            if stage > furthest or (stage == furthest and claims.attest < attest):
                furthest, attest, origid, best = stage, claims.attest, claims.origid, outcome
        elif claims.psap_callback and failure is None:
            psap_callback = True
    _, failure, why, spc = best
    if furthest < 0:
        why = f"no PASSporT of type shaken, only {', '.join(dict.fromkeys([row.stated for row in rows]))}"
    elif failure is None:
        why = f"attested {attest} by {spc}"
    return Verification(failure, why, attest, spc, origid, tuple(checks), psap_callback)
