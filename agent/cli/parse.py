"""`sbc-agent parse`: one SIP message as JSON or as a table, with everything that is wrong with it.

Reads a file or stdin; knows the parser and how results are shown, and decides nothing.
"""

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from agent.cli.output import BAD_INPUT, OK, complain, print_json, print_table
from agent.model import ParseError
from agent.sip.address import Address, parse_address
from agent.sip.headers import split_addresses
from agent.sip.message import Message, parse
from agent.sip.scan import MAX_MESSAGE

# Headers shown as addresses too: single values, and lists.
SINGLE_ADDRESSES = ("From", "To", "Reply-To", "Refer-To", "Referred-By")
ADDRESS_LISTS = ("Contact", "P-Asserted-Identity", "P-Preferred-Identity", "Diversion", "Route", "Record-Route")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", help="file with one SIP message, or - for stdin")
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--json", action="store_true", help="one JSON object on stdout (default)")
    style.add_argument("--table", action="store_true", help="a table for people")
    parser.add_argument(
        "--stream", action="store_true", help="the message came over TCP or TLS: Content-Length must be there and right"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0 for a message that could be read, whatever its defects; 1 for one that could not."""
    name = "stdin" if args.file == "-" else args.file
    try:
        raw = read_raw(args.file)
    except OSError as error:
        complain(f"cannot read {name}: {error.strerror or error}")
        return BAD_INPUT
    try:
        message = parse(raw, stream=args.stream)
    except ParseError as error:
        complain(f"{name}: {error.place}: {error.reason}, at byte {error.offset}")
        return BAD_INPUT
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # JSON is UTF-8 (RFC 8259 8.1), whatever the locale says
    if args.table:
        _print_tables(message)
    else:
        print_json(describe(message))
    return OK


def read_raw(file: str) -> bytes:
    """A file, or stdin for "-", of one message; at most a byte more than a message may have. Raises OSError."""
    # One byte more than a message may have is enough to say that it is too long, however large the file is.
    if file == "-":
        return sys.stdin.buffer.read(MAX_MESSAGE + 1)
    with Path(file).open("rb") as stream:
        return stream.read(MAX_MESSAGE + 1)


def text(raw: bytes) -> str:
    """Bytes for people and for JSON: UTF-8 where it is, else each odd byte as `\\xNN`."""
    return raw.decode("utf-8", "backslashreplace")


def describe(message: Message) -> dict[str, Any]:
    """The message as a JSON object: start line, headers in order, addresses, body length, defects."""
    return {
        "start_line": _start_line(message),
        "headers": [{"name": text(row.name), "value": text(row.value)} for row in message.rows if row.name],
        "addresses": {
            name: found for name in (*SINGLE_ADDRESSES, *ADDRESS_LISTS) if (found := _addresses(message, name))
        },
        "body_length": len(message.body),
        "defects": [{"place": d.place, "reason": d.reason, "offset": d.offset} for d in message.defects],
    }


def _start_line(message: Message) -> dict[str, Any]:
    if message.status:
        return {"status": message.status, "phrase": text(message.phrase)}
    return {"method": message.method, "request_uri": text(message.request_uri)}


def _addresses(message: Message, name: str) -> list[dict[str, Any]]:
    """Every address that the grammar accepts; those that it does not are among the defects."""
    found = []
    for value in message.header(name):
        for element in [value] if name in SINGLE_ADDRESSES else split_addresses(value):
            try:
                found.append(_describe_address(parse_address(element)))
            except ParseError:
                continue
    return found


def _describe_address(address: Address) -> dict[str, Any]:
    described: dict[str, Any] = {"display": text(address.display), "uri": text(address.uri)}
    try:
        uri = address.parsed_uri()
    except ParseError:
        pass
    else:
        described["scheme"] = text(uri.scheme)
        if uri.user is not None:
            described["user"] = text(uri.user)
            described["subscriber"] = text(uri.subscriber)
        if uri.host:
            described["host"] = text(uri.host)
        if uri.port is not None:
            described["port"] = uri.port
    described["tag"] = text(address.tag)
    described["params"] = {text(p.name): None if p.value is None else text(p.value) for p in address.params}
    return described


def _print_tables(message: Message) -> None:
    start = text(message.start_line).rstrip("\r\n")
    rows = [(visible(text(row.name)), visible(text(row.value))) for row in message.rows if row.name]
    print_table(visible(start), ("header", "value"), rows)
    print(f"body: {len(message.body)} bytes")
    if message.defects:
        print()
        rows3 = [(d.place, d.reason, str(d.offset)) for d in message.defects]
        print_table("Defects", ("place", "reason", "byte"), rows3)


def visible(shown: str) -> str:
    """Control characters as escapes: a message must not move the cursor of whoever looks at it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
