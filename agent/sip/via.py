"""Via: who sent this hop, over what, and the branch that names its transaction. Knows one header only."""

import re
from dataclasses import dataclass
from typing import Final

from agent.model import ParseError
from agent.sip.address import parse_params
from agent.sip.grammar import SENT_PROTOCOL, UNTIL_COMMA, UNTIL_SEMICOLON
from agent.sip.headers import WHITE_SPACE, Param, find_param, read_param
from agent.sip.uri import read_hostport

_AFTER_PROTOCOL: Final = re.compile(rb"[^/]*+/[^/]*+/[ \t\r]*+[^ \t\r]++[ \t\r]++(.*+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Via:
    """One hop. `transport` as sent ("UDP"), `host` with its brackets if IPv6, `port` None if not stated."""

    transport: bytes
    host: bytes
    port: int | None
    params: tuple[Param, ...]

    @property
    def branch(self) -> bytes:
        """The branch parameter, b"" if absent (RFC 2543 peers, RFC 4475 3.4.1)."""
        branch = find_param(self.params, b"branch")
        return b"" if branch is None else branch.value or b""


def read_top_via(value: bytes) -> tuple[bytes, bytes]:
    """Branch and sent-by of the first element of an unfolded Via value; b"" for what cannot be read."""
    comma = UNTIL_COMMA.match(value)
    end = comma.end() if comma else 0
    if value[end : end + 1] == b",":
        value = value[:end]
    semicolon = UNTIL_SEMICOLON.match(value)
    end = semicolon.end() if semicolon else 0
    if value[end : end + 1] != b";":
        end = len(value)  # no parameters, or a quote before them that is never closed
    branch = read_param(value[end:], b"branch") or b""
    head = _AFTER_PROTOCOL.match(value[:end].strip(WHITE_SPACE))
    sent_by = b":".join(part.strip(b" \t\r") for part in head[1].split(b":")) if head else b""
    return branch, sent_by


def parse_via(element: bytes) -> Via:
    """Read one unfolded element of a Via list by the grammar. Raises ParseError(place="Via")."""
    match = SENT_PROTOCOL.match(element)
    if not match or match[1].upper() != b"SIP" or match[2] != b"2.0":
        raise ParseError("Via", "does not begin with SIP/2.0/transport", 0)
    try:
        host, port, end = read_hostport(element, match.end())
        rest = element[end:]
        if rest.lstrip(WHITE_SPACE)[:1] not in (b"", b";"):
            raise ParseError("Via", "junk after the host", end)
        params = parse_params(rest, end)
    except ParseError as error:
        raise ParseError("Via", error.reason, error.offset) from None
    return Via(match[3], host, port, params)
