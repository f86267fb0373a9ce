"""The JSON of ATIS-1000082: requests read into orders, results written as responses. Knows no HTTP.

What is read is bounded and closed: no key twice (not in another case either: SBCs write origid and origId for the
same), no numbers that JSON does not have, no deep nesting. Unknown keys are ignored, as other editions of the report
add some. Times are seconds since the epoch, as JSON numbers or as strings of digits; written always as numbers.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Never

from agent.identity.model import RESPONSES, SignalledCall, Verification, Verstat
from agent.numbers.reading import MAX_DIALLED
from agent.policy.compile_identity import default_verstat
from agent.stir.api.faults import ApiError, Fault

BRACKETS_MAX: Final = 64
"""Of either kind, open or in a string. A request has six, and nesting cannot be deeper than their number."""

DESTINATIONS_MAX: Final = 16
"""Numbers of one dest. A call has one; a PASSporT may name several (RFC 8225 5.2.1)."""

ROWS_MAX: Final = 16
"""Identity rows of one request: as many as a verification considers."""

TN_MAX: Final = 2 * MAX_DIALLED
"""Characters of a number as sent, with its separators."""

TEXT_MAX: Final = 256
"""Characters of a reason that we write."""

# What the report allows in a number; RFC 8224 8.3 takes "+" and the separators out of it.
_TN: Final = re.compile(rf"[0-9*#+.\-()]{{1,{TN_MAX}}}", re.ASCII)
_CANONICAL: Final = re.compile(rf"[0-9*#]{{1,{MAX_DIALLED}}}", re.ASCII)
_SEPARATORS: Final = {ord(c): None for c in "+.-()"}
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)  # RFC 4122 3
_SECONDS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
SECONDS_MAX: Final = 10**12 - 1  # beyond any clock; a time in milliseconds is caught by its distance from now
_ROW: Final = re.compile(r"[\t -~]+", re.ASCII)
_ATTESTATIONS: Final = ("A", "B", "C")


@dataclass(frozen=True, slots=True)
class SigningOrder:
    """A PASSporT to be signed (RFC 8588 4). Numbers are canonical digits, `iat` seconds since the epoch."""

    attest: str
    orig: str
    dest: tuple[str, ...]
    iat: int
    origid: str


@dataclass(frozen=True, slots=True)
class VerificationOrder:
    """Identity rows to be judged, and the call that they came with."""

    values: tuple[bytes, ...]
    call: SignalledCall


def verstat_of(result: Verification) -> Verstat:
    """What a verification amounts to where no policy is in force."""
    return Verstat.PASSED if result.failure is None else default_verstat(result.failure)


def read_signing(body: bytes) -> SigningOrder:
    """The order in a signingRequest. Raises ApiError."""
    request = _request(body, "signingrequest", "signingRequest")
    attest = _present(request, "attest")
    if attest not in _ATTESTATIONS:
        raise _invalid("attest", "must be A, B or C")
    if request.get("ppt", "shaken") != "shaken":  # Oracle sends it
        raise _invalid("ppt", "must be shaken")
    origid = _present(request, "origid")
    if not isinstance(origid, str) or not _UUID.fullmatch(origid):
        raise _invalid("origid", "must be a UUID (RFC 4122)")
    return SigningOrder(
        attest=attest,
        orig=_number(_numbers(request, "orig"), "orig"),
        dest=_several(_numbers(request, "dest"), "dest", DESTINATIONS_MAX),
        iat=_seconds(request, "iat"),
        origid=origid,
    )


def read_verification(body: bytes) -> VerificationOrder:
    """The order in a verificationRequest. Raises ApiError."""
    request = _request(body, "verificationrequest", "verificationRequest")
    called = _several(_numbers(request, "to"), "to", 1)[0]
    call = SignalledCall(
        calling=(_number(_numbers(request, "from"), "from"),),
        called=called,
        to=called,
        # The report has neither: two requests with one token are taken for the same call, asked about again.
        call_id=b"",
        from_tag=b"",
        date=float(_seconds(request, "time")),
    )
    return VerificationOrder(_rows(_present(request, "identity")), call)


def verification_response(result: Verification, verstat: Verstat) -> bytes:
    """What became of a verification. A reason only where it failed; its code is a number, for Oracle reads no other."""
    response: dict[str, object] = {}
    if result.failure is not None:
        code, phrase = RESPONSES[result.failure]
        response = {"reasoncode": code, "reasontext": phrase, "reasondesc": result.why[:TEXT_MAX]}
    response["verstat"] = verstat.value
    return _json({"verificationResponse": response})


def signing_response(identity: str) -> bytes:
    """The value of an Identity header."""
    return _json({"signingResponse": {"identity": identity}})


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


# -- reading -----------------------------------------------------------------------------------------------------------


def _request(body: bytes, name: str, spelled: str) -> Mapping[str, Any]:
    """The object in the document's one member `name` (its key in lower case). Raises ApiError."""
    document = _parse(body)
    if not isinstance(document, dict):
        raise ApiError(Fault.UNPARSABLE, "not a JSON object")
    request = _present(document, name, spelled)
    if not isinstance(request, dict):
        raise _invalid(spelled, "must be an object")
    return request


def _parse(body: bytes) -> Any:
    if body.count(b"{") + body.count(b"[") > BRACKETS_MAX:
        raise ApiError(Fault.UNPARSABLE, "too many objects and arrays")
    try:
        return json.loads(body.decode(), object_pairs_hook=_folded, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise ApiError(Fault.UNPARSABLE, "not UTF-8") from None
    except ValueError:  # syntax, or a number of more digits than Python converts
        raise ApiError(Fault.UNPARSABLE, "invalid JSON") from None


def _folded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object by its keys in lower case; each may come once, or two readers would see two different requests."""
    folded = {key.lower(): value for key, value in pairs}
    if len(folded) != len(pairs):
        raise ApiError(Fault.UNPARSABLE, "a key comes twice")
    return folded


def _no_constant(_name: str) -> Never:
    raise ApiError(Fault.UNPARSABLE, "NaN and Infinity are no JSON numbers")


def _present(request: Mapping[str, Any], name: str, spelled: str = "") -> Any:
    value = request.get(name)
    if value is None or value == "":
        raise ApiError(Fault.MISSING_PARAMETER, spelled or name)
    return value


def _numbers(request: Mapping[str, Any], name: str) -> Any:
    """What `tn` of the member `name` holds."""
    identity = _present(request, name)
    if not isinstance(identity, dict):
        raise _invalid(name, "must be an object with tn")
    return _present(identity, "tn", f"{name}.tn")


def _number(value: object, name: str) -> str:
    """A number in its canonical form (RFC 8224 8.3)."""
    if not isinstance(value, str):
        raise _invalid(name, "tn must be a string")
    if not _TN.fullmatch(value):
        raise _invalid(name, f"tn may have 1 to {TN_MAX} characters of [0-9*#+.-()]")
    canonical = value.translate(_SEPARATORS)
    if not _CANONICAL.fullmatch(canonical):
        raise _invalid(name, f"tn must have 1 to {MAX_DIALLED} digits")
    return canonical


def _several(value: object, name: str, most: int) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _invalid(name, "tn must be an array of strings")
    if not 1 <= len(value) <= most:
        raise _invalid(name, "tn must have one number" if most == 1 else f"tn must have 1 to {most} numbers")
    return tuple(_number(element, name) for element in value)


def _seconds(request: Mapping[str, Any], name: str) -> int:
    value = _present(request, name)
    if isinstance(value, str) and _SECONDS.fullmatch(value):
        return int(value)
    if type(value) is not int or not 0 <= value <= SECONDS_MAX:  # bool is an int
        raise _invalid(name, "must be a number of seconds since the epoch")
    return value


def _rows(value: object) -> tuple[bytes, ...]:
    """One Identity value, or an array of them where a call has several."""
    rows = value if isinstance(value, list) else [value]
    if not 1 <= len(rows) <= ROWS_MAX:
        raise _invalid("identity", f"must be 1 to {ROWS_MAX} values")
    return tuple(_row(row) for row in rows)


def _row(value: object) -> bytes:
    if not isinstance(value, str) or not _ROW.fullmatch(value):
        raise _invalid("identity", "must be the value of an Identity header")
    return value.encode()


def _invalid(name: str, why: str) -> ApiError:
    return ApiError(Fault.INVALID_PARAMETER, name, why)
