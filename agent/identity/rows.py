"""Identity header rows: token;info=<url>;alg=ES256;ppt=shaken (RFC 8224 4). Knows text; judges no token.

One value may hold several, joined by commas, although RFC 8224 has no such list. Parameters come in any order, names
in any case, values quoted (RFC 8946's own example has ppt="div") or not, folds wherever the grammar has white space.
Nothing here raises for what came off the wire: a row that cannot be read says so in `fault`. The bytes of a row are
looked at and never written again.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from agent.sip.grammar import QUOTED, TOKEN, TOKEN_CHARS
from agent.sip.headers import split_addresses, unfold, unquote

MAX_ROWS: Final = 16
"""Rows that are read per call: an original, a chain of ten diversions, rcd and rph beside it. Each may cost one
signature, so who sends more gets no more work out of us."""

MAX_ROW: Final = 16_384
"""Bytes. A PASSporT of SHAKEN has 500, one with a jCard inside a few thousand."""

_MAX_PARAMETERS: Final = 16

# The form that all gear emits, in one match. What it does not match goes the long way, to the same reading.
_PLAIN: Final = re.compile(
    rb"[ \t\r\n]*+([A-Za-z0-9_.-]++);info=<([!-;=?-~]++)>;alg=([A-Za-z0-9]++);ppt=([A-Za-z0-9-]++)[ \t\r\n]*+"
)
_TOKEN: Final = re.compile(rb"[^;\s]++")
# SEMI generic-param; ident-info has its URI in LAQUOT RAQUOT. White space stands around ";" and "=" (RFC 3261 25.1).
_PARAMETER: Final = re.compile(
    rb"[ \t]*+;[ \t]*+([" + TOKEN_CHARS + rb"]++)"
    rb"(?:[ \t]*+=[ \t]*+(?:(<[!-;=?-~]*+>)|(" + QUOTED + rb"|[^\x00-\x20\x7f\",;<>]++)))?[ \t]*+",
    re.DOTALL,
)


class IdentityRow(NamedTuple):
    """One PASSporT and its parameters. `raw` and `token` are bytes as received; `fault` "" means usable.

    `url` is that of `info`; `alg` and `ppt` are without quotes; each is "" where absent. `params` holds all
    parameters, names in lower case, values without quotes and brackets.
    """

    raw: bytes
    token: bytes
    url: str
    alg: str
    ppt: str
    params: tuple[tuple[str, str], ...]
    fault: str


def read_rows(values: Sequence[bytes]) -> tuple[IdentityRow, ...]:
    """The rows of a call out of its header values (`Scan.identity`), in order. Never raises.

    Of more than MAX_ROWS only those are read, and one more row with a fault says that there were others.
    """
    rows: list[IdentityRow] = []
    for value in values:
        plain = _PLAIN.fullmatch(value) if len(value) <= MAX_ROW else None
        if plain:
            rows.append(_plain_row(value, *plain.groups()))
        else:
            rows += _read_value(value)
        if len(rows) > MAX_ROWS:
            unread = _row(rows[MAX_ROWS].raw, f"more than {MAX_ROWS} Identity rows; this and later ones were not read")
            return (*rows[:MAX_ROWS], unread)
    return tuple(rows)


def _plain_row(raw: bytes, token: bytes, url: bytes, alg: bytes, ppt: bytes) -> IdentityRow:
    info, alg_text, ppt_text = url.decode(), alg.decode(), ppt.decode()
    params = (("info", info), ("alg", alg_text), ("ppt", ppt_text))
    return IdentityRow(raw, token, info, alg_text, ppt_text, params, "")


def _row(raw: bytes, fault: str, token: bytes = b"", params: dict[str, str] | None = None) -> IdentityRow:
    found = params or {}
    return IdentityRow(
        raw, token, found.get("info", ""), found.get("alg", ""), found.get("ppt", ""), tuple(found.items()), fault
    )


def _read_value(value: bytes) -> list[IdentityRow]:
    """The rows of one header value."""
    if len(value) > MAX_ROW:
        return [_row(value, f"longer than {MAX_ROW} bytes")]
    # RFC 3261 7.3.1 lets no empty element stand in a list, but a comma at the end harms nobody.
    elements = [element for element in split_addresses(unfold(value)) if element]
    if not elements:
        return [_row(value, "empty")]
    if len(elements) == 1:
        return [_read_row(value, elements[0])]
    return [_read_row(element, element) for element in elements[: MAX_ROWS + 1]]


def _read_row(raw: bytes, text: bytes) -> IdentityRow:
    token = _TOKEN.match(text)
    if token is None:
        return _row(raw, "no token before the first parameter")
    params: dict[str, str] = {}
    position = token.end()
    fault = ""
    while position < len(text) and not fault:
        match = _PARAMETER.match(text, position)
        if match is None:
            left = text[position : position + 20].decode("ascii", "backslashreplace")
            fault = f"not a parameter: {left!r}"
            break
        position = match.end()
        fault = _take(params, *match.groups())
    return _row(raw, fault, token[0], params)


def _take(params: dict[str, str], name: bytes, bracketed: bytes | None, plain: bytes | None) -> str:
    """Add one parameter; returns what is wrong with it, or ""."""
    key = name.lower().decode("ascii")
    if key in params:
        return f'parameter "{key}" comes twice'  # RFC 3261 7.3.1
    if len(params) == _MAX_PARAMETERS:
        return f"more than {_MAX_PARAMETERS} parameters"
    if (key == "info") is not (bracketed is not None):
        return "info is not a URL in angle brackets" if key == "info" else f'parameter "{key}" is in angle brackets'
    value = bracketed[1:-1] if bracketed is not None else unquote(plain or b"")
    if key in {"alg", "ppt"} and not TOKEN.fullmatch(value):
        return f'parameter "{key}" is no token'
    params[key] = value.decode("utf-8", "backslashreplace")
    return ""
