"""The Reason header (RFC 3326), and the block notice of ATIS-1000099 ("603+") that travels in it.

One notice, two directions: `BlockNotice` is written into the answers that we send, and read out of those that
we receive, where it is read as leniently as the field demands. Knows nothing of messages but status and
phrase.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from agent.model import ConfigError
from agent.sip.headers import Param, find_param, quote, split_commas, split_params, split_semicolons, unquote

BLOCKED_STATUS: Final = 603
BLOCKED_PHRASE: Final = "Network Blocked"

# isup-location-value (RFC 8606 3). Which ones mean what: LN originating network, TN transit network, RLN
# network that serves the called party, LPN and RPN private networks, U user, BI beyond interworking.
LOCATIONS: Final = frozenset(
    (
        "U",
        "LPN",
        "LN",
        "TN",
        "RLN",
        "RPN",
        "LOC-6",
        "INTL",
        "LOC-8",
        "LOC-9",
        "BI",
        "LOC-11",
        "LOC-12",
        "LOC-13",
        "LOC-14",
        "LOC-15",
    )
)

Protocol = Literal["SIP", "Q.850"]
# ATIS-1000099 4.1.1 calls both equally valid. RFC 8606 ties `location` to Q.850, carriers send it with SIP.
CAUSES: Final[dict[Protocol, int]] = {"SIP": 603, "Q.850": 21}

VERSION: Final = "analytics1"

# id: the blocker's reference, which the caller quotes for redress (ATIS-1000099).
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
# A global E.164 number: at most 15 digits, none of them a leading zero.
_TEL: Final = re.compile(r"\+[1-9][0-9]{2,14}", re.ASCII)
# dot-atom "@" domain of RFC 5322 3.4.1; RFC 5321 4.5.3.1.3 bounds the whole at 254.
_EMAIL: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+",
    re.ASCII,
)
_MAX_EMAIL: Final = 254
# A host without userinfo, then the characters of a URI (RFC 3986 2).
_URL: Final = re.compile(
    r"https://[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?(?:[/?#][A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*)?",
    re.ASCII | re.IGNORECASE,
)
# The notice shares one UDP datagram with the Via rows of the whole path.
_MAX_URL: Final = 512
_URL_ESCAPES: Final = str.maketrans({";": "%3B", '"': "%22", "\\": "%5C"})


@dataclass(frozen=True, slots=True)
class ReasonValue:
    """One value of a Reason header. `cause` is -1 where absent or not a number; `text` is unquoted."""

    protocol: str
    cause: int
    text: str
    location: str
    params: tuple[Param, ...]


@dataclass(frozen=True, slots=True)
class BlockNotice:
    """Whom a blocked caller may ask, as ATIS-1000099 has it. "" for what is not stated.

    `url` is escaped as it stands on the wire. `protocol` is that of the Reason value that carried the notice.
    """

    url: str = ""
    tel: str = ""
    email: str = ""
    id: str = ""
    location: str = ""
    protocol: str = "SIP"


def parse_reason(value: bytes) -> tuple[ReasonValue, ...]:
    """Every value of an unfolded Reason row. Never fails: what cannot be read is empty."""
    return tuple(_parse_value(element) for element in split_commas(value) if element)


def _parse_value(element: bytes) -> ReasonValue:
    protocol = split_semicolons(element)[0]
    params = split_params(element)
    cause = _text_of(params, b"cause")
    return ReasonValue(
        protocol=_decode(protocol),
        cause=int(cause) if re.fullmatch(r"[0-9]{1,3}", cause, re.ASCII) else -1,
        text=_text_of(params, b"text"),
        location=_text_of(params, b"location"),
        params=params,
    )


def _text_of(params: tuple[Param, ...], name: bytes) -> str:
    param = find_param(params, name)
    return _decode(unquote(param.value)) if param and param.value else ""


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


def format_reason(protocol: str, cause: int, text: str, location: str = "") -> str:
    """One Reason value with its text quoted. Raises ValueError if `text` holds a line break."""
    quoted = quote(text.encode()).decode()
    return f"{protocol};cause={cause};text={quoted}" + (f";location={location}" if location else "")


def read_block_notice(status: int, phrase: bytes, reasons: Iterable[bytes]) -> BlockNotice | None:
    """The notice of a received response, None if it is not 603+.

    603+ is status 603, the phrase "Network Blocked" in any case, and a Reason whose text names version
    analytics1 first; a 603 without all three is an ordinary one. Lenient on blanks, on the order of the pairs
    behind the version, on a text whose quote is never closed, and on the pairs standing outside the text as
    parameters. `reasons` are unfolded values of the Reason rows.
    """
    if status != BLOCKED_STATUS or phrase.strip().lower() != BLOCKED_PHRASE.lower().encode():
        return None
    for row in reasons:
        for value in parse_reason(row):
            notice = _read_notice(value)
            if notice:
                return notice
    return None


def _read_notice(value: ReasonValue) -> BlockNotice | None:
    protocol = next((p for p in CAUSES if p == value.protocol.upper()), None)
    if protocol is None or value.cause != CAUSES[protocol]:
        return None
    pairs = _pairs(value.text.removeprefix('"').split(";"))  # the quote stays where it is never closed
    if not pairs or next(iter(pairs.items())) != ("v", VERSION):
        # `;v=analytics1;url="..."` outside the text: seen from one stack, never sent by us.
        pairs = {_decode(p.name).lower(): _decode(unquote(p.value or b"")) for p in reversed(value.params)}
        if pairs.get("v", "").lower() != VERSION:
            return None
    return BlockNotice(
        url=pairs.get("url", ""),
        tel=pairs.get("tel", ""),
        email=pairs.get("email", ""),
        id=pairs.get("id", ""),
        location=value.location.upper(),
        protocol=protocol,
    )


def _pairs(pieces: Iterable[str]) -> dict[str, str]:
    """`name=value` pieces in order, the first of a name counts; the version is compared without case."""
    pairs: dict[str, str] = {}
    for piece in pieces:
        if piece.strip():
            name, _, value = piece.partition("=")
            pairs.setdefault(name.strip().lower(), value.strip())
    if "v" in pairs:
        pairs["v"] = pairs["v"].lower()
    return pairs


def format_block_notice(notice: BlockNotice, protocols: Iterable[Protocol]) -> str:
    """The Reason values (one per protocol) that carry a checked notice; the URL is escaped here."""
    pairs = (
        ("url", notice.url.translate(_URL_ESCAPES)),
        ("tel", notice.tel),
        ("email", notice.email),
        ("id", notice.id),
    )
    text = f"v={VERSION}" + "".join(f";{name}={value}" for name, value in pairs if value)
    return ", ".join(format_reason(p, CAUSES[p], text, notice.location) for p in protocols)


def check_block_notice(notice: BlockNotice) -> None:
    """Raises ConfigError, naming the field, for a notice that ATIS-1000099 does not allow to be sent."""
    if not (notice.url or notice.tel or notice.email):
        raise ConfigError("url", "a 603+ answer needs at least one of url, tel and email")
    if notice.url:
        check_https_url("url", notice.url)
    if notice.tel and not _TEL.fullmatch(notice.tel):
        raise ConfigError("tel", f"{notice.tel!r} is not a global number such as +12015550100")
    if notice.email and (len(notice.email) > _MAX_EMAIL or not _EMAIL.fullmatch(notice.email)):
        raise ConfigError("email", f"{notice.email!r} is not an e-mail address")
    if notice.id and not _ID.fullmatch(notice.id):
        raise ConfigError("id", f"{notice.id!r} is not 1 to 64 of A-Z a-z 0-9 _ -")
    if notice.location not in LOCATIONS:
        raise ConfigError("location", f"{notice.location!r} is not one of {', '.join(sorted(LOCATIONS))}")


def check_https_url(field: str, url: str) -> None:
    """Raises ConfigError unless `url` is https with a host, made of URI characters and short enough to send."""
    if len(url) > _MAX_URL:
        raise ConfigError(field, f"is longer than {_MAX_URL} characters")
    # Quote and backslash are no URI characters, but can be escaped; everything else must be one already.
    if not _URL.fullmatch(url.replace('"', "%22").replace("\\", "%5C")):
        raise ConfigError(field, f"{url!r} is not an https URL")
