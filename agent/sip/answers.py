"""Final responses: what they say (`Answer`, one constructor per kind) and their bytes for a given request.

Constructors take an operator's words and raise ConfigError naming the field that cannot be sent. Which kind
of refusal gets which answer is not decided here: see the refusal table of the policy.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from agent import native
from agent.model import Answer, ConfigError, ParseError
from agent.sip.address import read_address
from agent.sip.grammar import CONTROL, TOKEN, UNTIL_COMMA
from agent.sip.headers import canonical_name, read_number, read_param, split_semicolons, unfold
from agent.sip.message import Message
from agent.sip.reason import (
    BLOCKED_PHRASE,
    BLOCKED_STATUS,
    CAUSES,
    BlockNotice,
    Protocol,
    check_block_notice,
    check_https_url,
    format_block_notice,
    read_block_notice,
)
from agent.sip.rows import make_row
from agent.sip.via import read_top_via

# RFC 3261 21, RFC 4412, RFC 5079, RFC 5360, RFC 6665, RFC 8197, RFC 8224, RFC 8688 and the IANA registry.
STANDARD_PHRASES: Final[dict[int, str]] = {
    100: "Trying", 180: "Ringing", 181: "Call Is Being Forwarded", 182: "Queued", 183: "Session Progress",
    199: "Early Dialog Terminated",
    200: "OK", 202: "Accepted", 204: "No Notification",
    300: "Multiple Choices", 301: "Moved Permanently", 302: "Moved Temporarily", 305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required",
    408: "Request Timeout", 410: "Gone", 412: "Conditional Request Failed", 413: "Request Entity Too Large",
    414: "Request-URI Too Long", 415: "Unsupported Media Type", 416: "Unsupported URI Scheme",
    417: "Unknown Resource-Priority", 420: "Bad Extension", 421: "Extension Required",
    422: "Session Interval Too Small", 423: "Interval Too Brief", 424: "Bad Location Information",
    425: "Bad Alert Message", 428: "Use Identity Header", 429: "Provide Referrer Identity", 430: "Flow Failed",
    433: "Anonymity Disallowed", 436: "Bad Identity Info", 437: "Unsupported Credential",
    438: "Invalid Identity Header", 439: "First Hop Lacks Outbound Support",
    440: "Max-Breadth Exceeded", 469: "Bad Info Package", 470: "Consent Needed",
    480: "Temporarily Unavailable", 481: "Call/Transaction Does Not Exist", 482: "Loop Detected",
    483: "Too Many Hops", 484: "Address Incomplete", 485: "Ambiguous", 486: "Busy Here",
    487: "Request Terminated", 488: "Not Acceptable Here", 489: "Bad Event", 491: "Request Pending",
    493: "Undecipherable", 494: "Security Agreement Required",
    500: "Server Internal Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Server Time-out", 505: "Version Not Supported", 513: "Message Too Large",
    555: "Push Notification Service Not Supported", 580: "Precondition Failure",
    600: "Busy Everywhere", 603: "Decline", 604: "Does Not Exist Anywhere", 606: "Not Acceptable",
    607: "Unwanted", 608: "Rejected",
}  # fmt: skip

# A peer that honours Retry-After sends nothing at all for so long; a day of silence is already an outage.
MAX_RETRY_AFTER: Final = 86_400

# RFC 3261 18.2.2: where an answer goes whose Via names no port.
DEFAULT_PORT: Final = 5060
MAX_PORT: Final = 65_535

# What every response copies from its request (RFC 3261 8.2.6.2).
_COPIED: Final = {b"via": "Via", b"from": "From", b"to": "To", b"call-id": "Call-ID", b"cseq": "CSeq"}
_COPIED_ROWS: Final = re.compile(
    rb"\n(via|v|from|f|to|t|call-id|i|cseq)[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*", re.IGNORECASE
)
_EMPTY_LINE: Final = re.compile(rb"\n\r?\n")
_FOLD_END: Final = re.compile(rb"\r?\n")


def plain(code: int, phrase: str = "") -> Answer:
    """A final response with its standard phrase, or one of your own. Raises ConfigError (code, phrase)."""
    if not 300 <= code <= 699:
        raise ConfigError("code", f"{code} does not refuse a call: 300 to 699 do")
    if not phrase and code not in STANDARD_PHRASES:
        raise ConfigError("phrase", f"{code} has no standard phrase, state one")
    phrase = phrase or STANDARD_PHRASES[code]
    _check_text("phrase", phrase)
    return Answer(code, phrase)


def network_blocked(
    *,
    url: str = "",
    tel: str = "",
    email: str = "",
    id: str = "",  # noqa: A002
    location: str = "RLN",
    protocols: Sequence[Protocol] = ("SIP",),
) -> Answer:
    """603+ of ATIS-1000099: the call was blocked by analytics. At least one of url, tel and email.

    `id` is the reference of this block for redress; `location` a token of RFC 8606, RLN for the network that
    serves the called party. `protocols` says which Reason values are sent: ("SIP",), ("Q.850",), or both for
    receivers that read `location` only where RFC 8606 allows it. Raises ConfigError naming the field.
    """
    notice = BlockNotice(url, tel, email, id, location)
    check_block_notice(notice)
    if not protocols or len(set(protocols)) < len(protocols) or not set(protocols) <= CAUSES.keys():
        raise ConfigError("protocols", f"{list(protocols)!r} is not one or both of SIP and Q.850")
    return Answer(BLOCKED_STATUS, BLOCKED_PHRASE, (("Reason", format_block_notice(notice, protocols)),))


def decline() -> Answer:
    """603 Decline: refused for a reason that is no analytics. Never carries `v=analytics1`."""
    return plain(603)


def forbidden() -> Answer:
    """403 Forbidden."""
    return plain(403)


def unwanted() -> Answer:
    """607 Unwanted: the called party does not want this caller (RFC 8197)."""
    return plain(607)


def rejected(jwscard: str) -> Answer:
    """608 Rejected by an intermediary (RFC 8688). `jwscard`: the https URL of this refusal's contact card."""
    check_https_url("jwscard", jwscard)
    if '"' in jwscard or "\\" in jwscard:
        raise ConfigError("jwscard", f"{jwscard!r} holds a character that must be escaped")
    return Answer(608, STANDARD_PHRASES[608], (("Call-Info", f"<{jwscard}>;purpose=jwscard"),))


def unavailable(retry_after: int | None) -> Answer:
    """503 Service Unavailable; `retry_after` in seconds, 1 to 86,400.

    With it the peer stays away from this host altogether, with None it refuses this one call (RFC 3261
    21.5.4).
    """
    if retry_after is None:
        return plain(503)
    if type(retry_after) is not int or not 1 <= retry_after <= MAX_RETRY_AFTER:
        reason = f"{retry_after!r} is not a whole number of seconds from 1 to {MAX_RETRY_AFTER}"
        raise ConfigError("retry_after", reason)
    return Answer(503, STANDARD_PHRASES[503], (("Retry-After", str(retry_after)),))


def temporarily_unavailable() -> Answer:
    """480 Temporarily Unavailable."""
    return plain(480)


def busy_here() -> Answer:
    """486 Busy Here."""
    return plain(486)


def stale_date() -> Answer:
    """403 Stale Date: Date or iat is older than policy allows (RFC 8224 6.2.2)."""
    return plain(403, "Stale Date")


def use_identity_header() -> Answer:
    """428: policy requires an Identity header and there is no usable one."""
    return plain(428)


def bad_identity_info() -> Answer:
    """436: the credential of no Identity header could be fetched."""
    return plain(436)


def unsupported_credential() -> Answer:
    """437: the credential was fetched, and is not acceptable."""
    return plain(437)


def invalid_identity_header() -> Answer:
    """438: no Identity header holds a valid PASSporT that is supported."""
    return plain(438)


class Rendered(NamedTuple):
    """The bytes of an `Answer` that are the same for every request: render once, answer many."""

    status_line: bytes
    rows: bytes


def render(answer: Answer) -> Rendered:
    """The bytes of an answer. Raises ConfigError (code, phrase, or the header's name) if it cannot be sent."""
    return Rendered(_status_line(answer), b"".join(_own_rows(answer)))


def build_answer(request: bytes, answer: Answer, *, to_tag: str, source: tuple[str, int] | None = None) -> bytes:
    """The response to a request (RFC 3261 8.2.6.2): Via rows, From, To, Call-ID and CSeq exactly as received.

    Only line ends change: bare LF is accepted, never sent. `to_tag` goes to the end of To if that has none;
    give the same one for every copy of a request, so that every copy gets the same bytes. `source`, the
    address and port that the request came from, fills `received` and `rport` of the top Via (RFC 3261 18.2.1,
    RFC 3581 4), for transports where nobody else does.

    Raises ParseError (place: the header) where the request lacks one of them, ConfigError for an answer or
    tag that cannot be sent, ValueError for an ACK, which is never answered, and for a response.
    """
    return build_reply(request, render(answer), to_tag, source)[0]


def build_reply_py(
    request: bytes, answer: Rendered, to_tag: str, source: tuple[str, int] | None = None
) -> tuple[bytes, int]:
    """As `build_answer`, and the port that the response goes to over UDP (RFC 3261 18.2.2, RFC 3581 4).

    That is the source port if the top Via asks for it with `rport`, else the one of its sent-by, 5060 where that
    names none (and where there is no source to tell).
    """
    start = request.find(b"\n", len(request) - len(request.lstrip(b"\r\n")))
    if request.lstrip(b"\r\n")[:4].upper() in (b"ACK ", b"SIP/"):
        raise ValueError("only a request other than ACK is answered")
    if not TOKEN.fullmatch(to_tag.encode("ascii", "replace")):
        raise ConfigError("to_tag", f"{to_tag!r} is not a token")
    copied = _copied_rows(request, start)
    port = DEFAULT_PORT
    if source is not None:
        port = _reply_port(copied[b"via"][0], source[1])
        copied[b"via"][0] = _with_source(copied[b"via"][0], *source)
    copied[b"to"] = [_with_tag(copied[b"to"][0], to_tag.encode("ascii"))]
    parts = [answer.status_line, *copied[b"via"]]
    parts += (copied[key][0] for key in (b"from", b"to", b"call-id", b"cseq"))
    parts += (answer.rows, b"Content-Length: 0\r\n\r\n")
    return b"".join(parts), port


_BuildReply = Callable[[bytes, Rendered, str, tuple[str, int] | None], tuple[bytes, int]]


def _choose() -> _BuildReply:
    """The compiled twin where it is loaded; it leaves what is not plain, and every error, to the reference."""
    if native.answer is None:
        return build_reply_py
    build = native.answer.build

    def build_reply_native(
        request: bytes, answer: Rendered, to_tag: str, source: tuple[str, int] | None = None
    ) -> tuple[bytes, int]:
        host, port = source or (None, 0)
        built: tuple[bytes, int] | None = build(request, answer.status_line, answer.rows, to_tag, host, port)
        return built or build_reply_py(request, answer, to_tag, source)

    return build_reply_native


build_reply: Final[_BuildReply] = _choose()


def read_block_reason(message: Message) -> BlockNotice | None:
    """The 603+ notice of a received response, None if it is none; see `agent.sip.reason.read_block_notice`."""
    return read_block_notice(message.status, message.phrase, message.header("Reason"))


def _status_line(answer: Answer) -> bytes:
    _check_text("phrase", answer.phrase)
    if not 100 <= answer.code <= 699:
        raise ConfigError("code", f"{answer.code} is no status code")
    return b"SIP/2.0 %d %b\r\n" % (answer.code, answer.phrase.encode())


def _own_rows(answer: Answer) -> Iterator[bytes]:
    for name, value in answer.headers:
        try:
            yield make_row(name, value).raw
        except ValueError as error:
            raise ConfigError(name, str(error)) from None


def _copied_rows(request: bytes, start: int) -> dict[bytes, list[bytes]]:
    """The rows that every response repeats, by their key, each ending in CRLF. `start` is the end of the
    start line.

    Finds them the way `scan` does instead of parsing: a flood that is refused must not cost a full parse per
    call.
    """
    empty = _EMPTY_LINE.search(request, start)
    copied: dict[bytes, list[bytes]] = {key: [] for key in _COPIED}
    for match in _COPIED_ROWS.finditer(request, start, empty.start() if empty else len(request)):
        raw = match[0][1:].removesuffix(b"\r") + b"\r\n"
        if raw.count(b"\n") > 1:
            raw = _FOLD_END.sub(b"\r\n", raw)
        copied[canonical_name(match[1])].append(raw)
    for key, rows in copied.items():
        if not rows:
            raise ParseError(_COPIED[key], "is missing, so the request cannot be answered", start)
    return copied


def _with_tag(to: bytes, tag: bytes) -> bytes:
    _, params = read_address(unfold(to.partition(b":")[2]))
    if read_param(params, b"tag") is not None:
        return to
    return to.rstrip(b" \t\r\n") + b";tag=" + tag + b"\r\n"


def _reply_port(via: bytes, source_port: int) -> int:
    """The port that an answer goes to; `via` is the first row, `source_port` where the request came from."""
    value = unfold(via.partition(b":")[2])
    comma = UNTIL_COMMA.match(value)
    end = comma.end() if comma else 0
    element = value[:end] if value[end : end + 1] == b"," else value
    if read_param(element, b"rport") is not None:
        return source_port
    _, sent_by = read_top_via(value)
    _, *digits = sent_by.rpartition(b"]")[2].split(b":")  # IPv6 without brackets names no port that can be told
    port = read_number(digits[0], MAX_PORT) if len(digits) == 1 else 0
    return port if 1 <= port <= MAX_PORT else DEFAULT_PORT


def _with_source(via: bytes, address: str, port: int) -> bytes:
    """The first element of a Via row with `received`, and with a value for `rport` if it asks for one."""
    name, _, value = via.partition(b":")
    comma = UNTIL_COMMA.match(value)
    end = comma.end() if comma else 0
    element, rest = value[:end].rstrip(b" \t\r\n"), value[end:]
    if not rest.startswith(b","):
        element, rest = value.rstrip(b" \t\r\n"), b"\r\n"
    head, *params = split_semicolons(element)
    names = [param.partition(b"=")[0].strip(b" \t\r\n").lower() for param in params]
    kept = [param for param, key in zip(params, names, strict=True) if key not in (b"received", b"rport")]
    kept.append(b"received=" + address.encode("ascii"))
    if b"rport" in names:
        kept.append(b"rport=%d" % port)
    return name + b": " + b";".join((head, *kept)) + rest


def _check_text(field: str, text: str) -> None:
    if CONTROL.search(text.encode("utf-8", "replace")):
        raise ConfigError(field, f"{text!r} holds a control character")
