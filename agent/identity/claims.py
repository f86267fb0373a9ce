"""The claims of a PASSporT: what each type must hold, in which form. Knows JSON values; no token, no call.

RFC 8225 5 (iat, orig, dest), RFC 8588 (shaken), RFC 8946 (div), RFC 8443 and 9027 (rph), RFC 9795 (rcd). Claims that
no type asks for are let be. Strict is the default. Lenient also takes what gear is known to send and what the RFCs'
own examples show: iat as a string of digits, one dest as a bare string, numbers with "+" and separators.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from agent.model import ParseError

SHAKEN: Final = "shaken"
DIV: Final = "div"
RPH: Final = "rph"
RCD: Final = "rcd"
SUPPORTED: Final = frozenset({SHAKEN, DIV, RPH, RCD})
"""PASSporT types that we verify; rows of any other are ignored (RFC 8224 6.2 step 1)."""

PSAP_CALLBACK: Final = "psap-callback"  # RFC 9027 3: the only value of "sph"

MAX_ORIGID: Final = 128
"""Characters. A UUID has 36; some networks write other handles, and records keep it."""

_MAX_TN: Final = 32
_MAX_IAT: Final = 2**53 - 1  # what every JSON implementation can hold (RFC 8259 6)

# tn-spec = 1*tn-char ; tn-char = "#" / "*" / DIGIT (RFC 8224 8.3)
_TN: Final = re.compile(rf"[0-9*#]{{1,{_MAX_TN}}}", re.ASCII)
_SEPARATORS: Final = {ord(c): None for c in "+-.() "}
_DIGITS: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_PRINTABLE: Final = re.compile(rf"[!-~]{{1,{MAX_ORIGID}}}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_ESNET: Final = "esnet."  # RFC 7135: the namespace of emergency services
_PLACE: Final = "PASSporT payload"


class Claims(NamedTuple):
    """What is compared with a call, and what a signer says of it. Numbers are canonical (RFC 8224 8.3).

    `iat` in epoch seconds. `orig` and `div` are "" where the identity is a URI; `dest` holds numbers, `dest_uris`
    URIs. `attest` and `origid` are those of shaken; `psap_callback` is that of rph.
    """

    iat: int
    orig: str
    dest: tuple[str, ...]
    dest_uris: tuple[str, ...] = ()
    attest: str = ""
    origid: str = ""
    div: str = ""
    psap_callback: bool = False


NO_CLAIMS: Final = Claims(0, "", ())

# What every signer of SHAKEN emits: the deterministic JSON of RFC 8225 9, in the order of RFC 8588 8.
_PLAIN_SHAKEN: Final = re.compile(
    rf'{{"attest":"([ABC])","dest":{{"tn":\["([0-9*#]{{1,{_MAX_TN}}})"\]}},"iat":(0|[1-9][0-9]{{0,14}}),'
    rf'"orig":{{"tn":"([0-9*#]{{1,{_MAX_TN}}})"}},"origid":"([!#-\[\]-~]{{1,{MAX_ORIGID}}})"}}'
)


def read_plain_shaken(text: str) -> Claims | None:
    """What read_claims gives of this JSON for shaken, strict or lenient, in a fraction of the time; None if it is not
    in the plain form, whatever else it may be."""
    plain = _PLAIN_SHAKEN.fullmatch(text)
    if plain is None:
        return None
    attest, dest, iat, orig, origid = plain.groups()
    return Claims(int(iat), orig, (dest,), (), attest, origid)


def read_claims(ppt: str, payload: Mapping[str, Any], *, lenient: bool = False) -> Claims:
    """The claims of a PASSporT of a supported type. Raises ParseError naming the claim."""
    get = payload.get
    iat, orig, dest = get("iat"), get("orig"), get("dest")
    if type(iat) is not int or not 0 <= iat <= _MAX_IAT:
        iat = _read_iat(iat, lenient)
    origin = _read_identity(orig, "orig", lenient)
    numbers, uris = _read_dest(dest, lenient)
    if ppt == SHAKEN:
        attest, origid = get("attest"), get("origid")
        if attest not in ("A", "B", "C"):
            raise _fault("attest", attest, "not A, B or C")
        if type(origid) is not str or not _PRINTABLE.fullmatch(origid):
            raise _fault("origid", origid, f"not 1 to {MAX_ORIGID} printable characters")
        if not origin:
            raise _fault("orig", orig, "no telephone number")
        return Claims(iat, origin, numbers, uris, attest, origid)
    return _READERS[ppt](payload, Claims(iat, origin, numbers, uris), lenient)


def is_uuid(origid: str) -> bool:
    """Whether an origid has the form that RFC 8588 4 wants. Nothing depends on it: it is opaque to a verifier."""
    return _UUID.fullmatch(origid) is not None


def _fault(claim: str, value: object, reason: str) -> ParseError:
    return ParseError(_PLACE, f"{claim} is absent" if value is None else f"{claim}: {reason}")


def _read_iat(iat: object, lenient: bool) -> int:
    if lenient and type(iat) is str and _DIGITS.fullmatch(iat):
        return int(iat)
    raise _fault("iat", iat, "not a whole number of seconds")


def _read_tn(value: object, claim: str, lenient: bool) -> str:
    if type(value) is str:
        number = value.translate(_SEPARATORS) if lenient else value
        if _TN.fullmatch(number):
            return number
    raise _fault(claim, value, "not a canonical telephone number (RFC 8224 8.3)")


def _read_identity(value: object, claim: str, lenient: bool) -> str:
    """The number of an object with exactly one identity (RFC 8225 5.2.1), or "" if it is a URI."""
    if type(value) is not dict:
        raise _fault(claim, value, "not an object")
    if "tn" in value and "uri" not in value:
        return _read_tn(value["tn"], f"{claim}.tn", lenient)
    if "tn" in value or type(value.get("uri")) is not str:
        raise _fault(claim, value, 'not exactly one of "tn" and "uri"')
    return ""


def _read_dest(dest: object, lenient: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Numbers and URIs of an object of arrays (RFC 8225 5.2.1)."""
    if type(dest) is not dict:
        raise _fault("dest", dest, "not an object")
    tns, uris = _strings(dest.get("tn", []), "dest.tn", lenient), _strings(dest.get("uri", []), "dest.uri", lenient)
    if not tns and not uris:
        raise _fault("dest", dest, 'neither "tn" nor "uri" holds anything')
    return tuple(_read_tn(tn, "dest.tn", lenient) for tn in tns), tuple(uris)


def _strings(value: object, claim: str, lenient: bool) -> list[str]:
    if lenient and type(value) is str:
        return [value]
    if type(value) is not list or any(type(item) is not str for item in value):
        raise _fault(claim, value, "not an array of strings")
    return value


def _read_div(payload: Mapping[str, Any], claims: Claims, lenient: bool) -> Claims:
    """RFC 8946 3: the identity that was called before the diversion."""
    if "opt" in payload:
        raise ParseError(_PLACE, "opt: not allowed with div, which is not nested (RFC 8946 4)")
    return claims._replace(div=_read_identity(payload.get("div"), "div", lenient))


def _read_rph(payload: Mapping[str, Any], claims: Claims, _lenient: bool) -> Claims:
    """RFC 8443 3: namespaces and priorities; RFC 9027 3: "sph", only beside one of the esnet namespace."""
    rph, sph = payload.get("rph"), payload.get("sph")
    if type(rph) is not dict or not rph:
        raise _fault("rph", rph, "not an object that holds anything")
    values = [value for listed in rph.values() for value in _strings(listed, "rph", lenient=False)]
    if sph is None:
        return claims
    if sph != PSAP_CALLBACK:
        raise _fault("sph", sph, f"not {PSAP_CALLBACK}")
    if not any(value.lower().startswith(_ESNET) for value in values):
        raise _fault("sph", sph, "not beside an rph of the esnet namespace (RFC 9027 3)")
    return claims._replace(psap_callback=True)


def _read_rcd(payload: Mapping[str, Any], claims: Claims, _lenient: bool) -> Claims:
    """RFC 9795 5.1: "nam" once, even if empty; a jCard inside or linked, not both."""
    rcd = payload.get("rcd")
    if type(rcd) is not dict:
        raise _fault("rcd", rcd, "not an object")
    for claim in ("nam", "apn", "icn", "jcl"):
        value = rcd.get(claim, None if claim == "nam" else "")
        if type(value) is not str:
            raise _fault(f"rcd.{claim}", value, "not a string")
    if "jcd" in rcd and "jcl" in rcd:
        raise _fault("rcd", rcd, "both jcd and jcl")
    if "jcd" in rcd and type(rcd["jcd"]) is not list:
        raise _fault("rcd.jcd", rcd["jcd"], "not a jCard")
    return claims


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any], Claims, bool], Claims]]] = {
    DIV: _read_div,
    RPH: _read_rph,
    RCD: _read_rcd,
}
