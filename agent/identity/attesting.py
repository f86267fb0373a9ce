"""From a call that passes to the Identity rows that we add to it: what the policy has us attest, put into tokens.

Knows call attempts and the signing rule; reads no clock and makes no random number. An Identity that the call brings
is looked at and never touched: a new SHAKEN PASSporT goes with a call that has none, a div beside one that is there.
"""

from typing import Final

from agent.identity.claims import DIV, SHAKEN, Claims
from agent.identity.diversion import MAX_CHAIN, find_chain
from agent.identity.model import Failure
from agent.identity.passport import read_passport
from agent.identity.rows import read_rows
from agent.identity.signing import Signer
from agent.model import CallAttempt, Number, ParseError
from agent.numbers.reading import classify, read_number
from agent.policy.emergency import FULL_NUMBERS
from agent.policy.policy import Mode, SigningSpec

NOTHING: Final[tuple[bytes, ...]] = ()


def rows_to_add(attempt: CallAttempt, spec: SigningSpec, signer: Signer, when: float, origid: str) -> tuple[bytes, ...]:
    """The values of the Identity rows that this call gets from us, in addition to its own; often none.

    `when` is epoch seconds, `origid` a random UUID, for trunks that have none of their own. There are none in shadow
    mode, and none while the signer's certificate is not valid.
    """
    if spec.mode is not Mode.ENFORCE or not signer.valid_at(when):
        return NOTHING
    attestation = spec.decide(attempt)
    if attestation is not None:
        dest = destination_number(attempt, spec)
        if not dest:
            return NOTHING
        origid = spec.origids.get(attempt.trunk, origid)
        return (signer.sign(attempt.calling.digits, (dest,), attestation.value, origid, int(when)),)
    if spec.divert and attempt.message.identity:
        return _diversion(attempt, spec, signer)
    return NOTHING


def destination_number(attempt: CallAttempt, spec: SigningSpec) -> str:
    """What dest says: the number of To, which is what the caller dialled (RFC 8224 4.1), in canonical form.

    The Request-URI's where To has no number with its country; "" where there are no digits at all.
    """
    called, to = attempt.called, attempt.to
    if called.kind in FULL_NUMBERS and attempt.message.to_uri != attempt.message.request_uri:
        to = read_number(attempt.message.to_uri, spec.countries.get(attempt.trunk, "1"))
    return to.digits if to.kind in FULL_NUMBERS else called.digits or to.digits


def _diversion(attempt: CallAttempt, spec: SigningSpec, signer: Signer) -> tuple[bytes, ...]:
    """A div PASSporT, if a customer whom the caller had called sends the call on to another number (RFC 8946 4).

    The customer's numbers are what we have authority over, so the number that was called must be one of them. Rows
    that verification found to be bad, other than by their destination, are no ground to build on.
    """
    numbers = spec.inventory.get(attempt.customer)
    found = attempt.identity
    unsound = found is not None and found.failure not in (None, Failure.MISMATCH)
    if numbers is None or unsound or attempt.called.kind not in FULL_NUMBERS or spec.leaves(attempt):
        return NOTHING
    original, diversions = _claims(attempt)
    called = attempt.called.digits
    if original is None or find_chain(original, diversions, called) is not None:
        return NOTHING
    last = _last(original, diversions)
    left = next((number for number in last.dest if _full(number) in numbers), None)
    if left is None:
        return NOTHING
    return (signer.sign_diversion(original.orig, (called,), left, original.iat),)


def _claims(attempt: CallAttempt) -> tuple[Claims | None, list[Claims]]:
    """What the caller's own PASSporT says, None if there is none, and those of earlier diversions."""
    original, diversions = None, []
    for row in read_rows(attempt.message.identity):
        try:
            passport = read_passport(row.token)
        except ParseError:
            continue
        if passport.claims.orig != attempt.calling.digits:
            continue
        if passport.ppt == DIV:
            diversions.append(passport.claims)
        elif passport.ppt == SHAKEN and original is None:
            original = passport.claims
    return original, diversions


def _last(original: Claims, diversions: list[Claims]) -> Claims:
    """The end of the longest chain that the diversions make, in the order in which they fit."""
    last, unused = original, list(diversions)
    for _ in range(MAX_CHAIN):
        following = next((div for div in unused if div.div in last.dest), None)
        if following is None:
            break
        unused.remove(following)
        last = following
    return last


def _full(digits: str) -> Number:
    """A canonical number of a token, which has its country and no "+"."""
    return classify(f"+{digits}", "").number
