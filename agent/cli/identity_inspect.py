"""`sbc-agent identity inspect`: every Identity row of a message, taken apart for people.

Knows the readers of agent.identity and how results are shown. Verifies nothing: what a row says is not what is true.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from agent.cli.output import BAD_INPUT, OK, complain, print_json, print_table
from agent.cli.parse import read_raw, visible
from agent.identity.claims import SHAKEN, is_uuid
from agent.identity.jws import read_object, read_signature, split
from agent.identity.reading import RowReader
from agent.identity.rows import IdentityRow, read_rows
from agent.identity.verification import PORTS
from agent.model import ParseError
from agent.sip.scan import scan

SUMMARY: Final = "show every row and claim of the Identity header; verifies nothing"

_TEXT: Final = """\
Shows what each Identity row of a SIP message says: parameters, JOSE header, claims (shaken, div, rph, rcd), and what a
verifier would object to before it fetches anything. FILE may also hold bare rows, one a line, with or without the
header name."""

_EPILOG: Final = """\
examples:
  sbc-agent identity inspect invite.sip
  sbc-agent identity inspect - --json < row.txt

exit codes: 0 shown, whatever is wrong with the rows; 1 there is none, or the file cannot be read; 2 wrong usage"""

# A PASSporT stands at the start of a line, after the header name or not; it may be folded behind that.
_BARE_ROW: Final = re.compile(rb"^(?:(?:identity|y)[ \t]*:)?([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE | re.MULTILINE)

_READERS: Final = {mode: RowReader(PORTS, lenient=mode == "lenient") for mode in ("strict", "lenient")}

_ATTESTATIONS: Final = {
    "A": "A: the signer knows the customer and his right to the number",
    "B": "B: the signer knows the customer, not his right to the number",
    "C": "C: the signer received the call from elsewhere",
}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "inspect", help=SUMMARY, description=_TEXT, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", help="a SIP message or Identity rows; - for stdin")
    parser.add_argument("--json", action="store_true", help="a JSON array with one object for each row")
    parser.set_defaults(identity_run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 0 if there was a row to show."""
    name = "stdin" if args.file == "-" else args.file
    try:
        raw = read_raw(args.file)
    except OSError as error:
        complain(f"cannot read {name}: {error.strerror or error}")
        return BAD_INPUT
    rows = [describe(row) for row in read_rows(_values(raw))]
    if args.json:
        print_json(rows)
    elif rows:
        for number, row in enumerate(rows, 1):
            title = f"Identity row {number} of {len(rows)}"
            print_table(title, ("what", "value"), [(visible(what), visible(shown)) for what, shown in _told(row)])
    if not rows:
        complain(f"{name}: no Identity header")
        return BAD_INPUT
    return OK


def _values(raw: bytes) -> tuple[bytes, ...]:
    """The values of the Identity headers of a message, or the rows that this is."""
    try:
        return scan(raw).identity
    except ParseError:
        return tuple(value for value in _BARE_ROW.findall(raw) if value.strip())


def describe(row: IdentityRow) -> dict[str, Any]:
    """One row as a JSON object. What cannot be read is null, and `faults` says why."""
    faults = [row.fault] if row.fault else []
    header, payload, signature = _parts(row.token, faults)
    return {
        "ppt": row.ppt,
        "info": row.url,
        "alg": row.alg,
        "parameters": dict(row.params),
        "header": header,
        "payload": payload,
        "signature": signature,
        "bytes": len(row.raw),
        "faults": faults,
        "objections": _objections(row),
    }


def _parts(
    token: bytes, faults: list[str]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None, dict[str, str] | None]:
    """Header, payload and signature, each as far as it can be read by itself."""
    try:
        encoded_header, encoded_payload, encoded_signature, _ = split(token)
    except ParseError as error:
        faults.append(f"{error.place}: {error.reason}")
        return None, None, None
    read: list[dict[str, Any] | None] = []
    for part, place in ((encoded_header, "header"), (encoded_payload, "payload")):
        try:
            read.append(read_object(part, place))
        except ParseError as error:
            read.append(None)
            faults.append(f"{error.place}: {error.reason}")
    signature = None
    try:
        raw = read_signature(encoded_signature)
        signature = {"r": raw[:32].hex(), "s": raw[32:].hex()}
    except ParseError as error:
        faults.append(f"{error.place}: {error.reason}")
    return read[0], read[1], signature


def _objections(row: IdentityRow) -> dict[str, str]:
    """The first thing that a verifier finds wrong without a certificate, by mode, and what it finds odd."""
    found = {}
    for mode, reader in _READERS.items():
        read = reader.read((row.raw,)).rows[0]
        if read.why:
            found[mode] = read.why
        elif read.ppt == SHAKEN and read.passport is not None and not is_uuid(read.passport.claims.origid):
            found["origid"] = "not a UUID (RFC 8588 4)"
    return found


def _told(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A described row as lines of name and value, from the outside in."""
    for name, value in row["parameters"].items():
        yield f";{name}", value
    for part in ("header", "payload"):
        if row[part] is not None:
            for name, value in row[part].items():
                yield from _claim(f"{part} {name}", name, value)
    if row["signature"]:
        yield "signature", f"r {row['signature']['r']}"
        yield "", f"s {row['signature']['s']}"
    yield "size", f"{row['bytes']:,} bytes"
    for fault in row["faults"]:
        yield "fault", fault
    for name, why in row["objections"].items():
        yield f"objection ({name})", why


def _claim(label: str, name: str, value: object) -> Iterator[tuple[str, str]]:
    match name, value:
        case "iat", int() if not isinstance(value, bool):
            yield label, f"{value} ({_moment(value)})"
        case "attest", str():
            yield label, _ATTESTATIONS.get(value, value)
        case _, dict() if value:
            for member, held in value.items():
                yield from _claim(f"{label}.{member}", "", held)
        case _, list() if value and all(isinstance(held, str) for held in value):
            yield label, ", ".join(value)
        case _, str():
            yield label, value
        case _:
            yield label, json.dumps(value, ensure_ascii=False)


def _moment(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return "no time of any calendar"
