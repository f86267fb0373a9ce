"""From, To, P-Asserted-Identity and their like: a URI with a display name and header parameters.

Two readers of one form. `read_address` takes what screening needs out of anything that can be understood;
`parse_address` is the grammar and says what is wrong. Where both succeed they give the same address.
"""

import re
from dataclasses import dataclass
from typing import Final

from agent.model import ParseError
from agent.sip.grammar import DISPLAY_NAME, OPAQUE, PARAMETER, TOKEN, UNTIL_ADDR_SPEC, UNTIL_SEMICOLON
from agent.sip.headers import WHITE_SPACE, Param, find_param, quote, read_param, split_params, split_semicolons, unquote
from agent.sip.uri import Uri, parse_uri

_FIRST_WORD: Final = re.compile(rb"[^ \t\r\n]*+")


@dataclass(frozen=True, slots=True)
class Address:
    """`display` is unquoted (b"" if there is none); `uri` is the addr-spec as sent; `params` are the
    header's.

    After an addr-spec without "<>" every parameter is the header's, `user=phone` too (RFC 3261 20).
    """

    display: bytes
    uri: bytes
    params: tuple[Param, ...] = ()

    @property
    def tag(self) -> bytes:
        """The tag parameter, b"" if absent."""
        tag = find_param(self.params, b"tag")
        return b"" if tag is None else tag.value or b""

    def parsed_uri(self) -> Uri:
        """The addr-spec in its parts. Raises ParseError(place="URI")."""
        return parse_uri(self.uri)

    def __bytes__(self) -> bytes:
        """As a name-addr; the display name is quoted unless it is tokens with single spaces between."""
        name = self.display
        if name and not all(TOKEN.fullmatch(word) for word in name.split(b" ")):
            name = quote(name)
        prefix = name + b" " if name else b""
        return prefix + b"<" + self.uri + b">" + b"".join(b";" + bytes(param) for param in self.params)


def read_address(value: bytes) -> tuple[bytes, bytes]:
    """The addr-spec in an unfolded value, and the text behind it from its first ";" on.

    Lenient where RFC 4475 3.1.2.14 and 3.1.2.15 show what senders do: blanks inside the brackets, a display
    name that should be quoted. Both are b"" where a quote or bracket is never closed.
    """
    end = _end_of(UNTIL_ADDR_SPEC, value)
    stop = value[end : end + 1]
    if stop == b"<":
        close = value.find(b">", end)
        if close < 0:
            return b"", b""
        rest = value[close + 1 :]
        return value[end + 1 : close].strip(WHITE_SPACE), rest[_end_of(UNTIL_SEMICOLON, rest) :]
    if stop == b'"' or value[:1] == b'"':
        return b"", b""
    return value[: min(end, _end_of(_FIRST_WORD, value))], value[end:]


def read_tag(params_text: bytes) -> bytes:
    """The tag in `;a=1;tag=2`; b"" if there is none or it is empty."""
    return read_param(params_text, b"tag") or b""


def parse_address(value: bytes) -> Address:
    """Read one unfolded name-addr or addr-spec with its parameters, by the grammar.

    Raises ParseError(place="address") that names what is wrong and the byte within `value`. The addr-spec is
    not taken apart here: see `Address.parsed_uri`.
    """
    end = _end_of(UNTIL_ADDR_SPEC, value)
    stop = value[end : end + 1]
    if stop == b'"':
        raise ParseError("address", "a quote is never closed", end)
    if stop == b"<":
        return _parse_name_addr(value, end)
    uri = value[:end].rstrip(WHITE_SPACE)
    _check_addr_spec(uri, 0)
    for character in (b"?", b","):
        if character in uri:
            raise ParseError(
                "address", f"an addr-spec with {character.decode()} must stand in <>", uri.index(character)
            )
    return Address(b"", uri, parse_params(value[end:], end))


def _parse_name_addr(value: bytes, opening: int) -> Address:
    close = value.find(b">", opening)
    if close < 0:
        raise ParseError("address", '"<" is never closed', opening)
    display = value[:opening].strip(WHITE_SPACE)
    if not DISPLAY_NAME.fullmatch(display):
        raise ParseError("address", "a display name with other than token characters must be quoted", 0)
    uri = value[opening + 1 : close]
    _check_addr_spec(uri, opening + 1)
    rest = value[close + 1 :]
    if rest[: _end_of(UNTIL_SEMICOLON, rest)].strip(WHITE_SPACE):
        raise ParseError("address", 'junk after ">"', close + 1)
    return Address(unquote(display), uri, parse_params(rest, close + 1))


def _check_addr_spec(uri: bytes, offset: int) -> None:
    if not uri:
        raise ParseError("address", "no addr-spec", offset)
    if len(uri.split()) != 1 or uri != uri.strip():
        raise ParseError("address", "white space in the addr-spec", offset)
    if not OPAQUE.fullmatch(uri):
        raise ParseError("address", "control character, quote or angle bracket in the addr-spec", offset)


def parse_params(text: bytes, offset: int = 0) -> tuple[Param, ...]:
    """`;a=1;b` (or nothing) by the grammar: no empty parameter, no name twice (RFC 3261 7.3.1)."""
    for piece in split_semicolons(text)[1:]:
        if not piece:
            raise ParseError("address", "empty parameter", offset)
        if not PARAMETER.fullmatch(piece):
            raise ParseError("address", "malformed parameter", offset)
    params = split_params(text)
    if len({param.name.lower() for param in params}) < len(params):
        raise ParseError("address", "a parameter comes twice", offset)
    return params


def _end_of(pattern: re.Pattern[bytes], text: bytes) -> int:
    match = pattern.match(text)
    return match.end() if match else 0
