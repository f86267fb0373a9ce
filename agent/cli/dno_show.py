"""`sbc-agent dno inspect` and `sbc-agent dno lookup`: what a list holds, and what it says of a number."""

import argparse
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.cli.dno_files import complain_of, opened_list, time_text
from agent.cli.number import add_country_argument
from agent.cli.output import BAD_INPUT, OK, print_json, print_table
from agent.model import ConfigError
from agent.numbers.dno import KIND, Assertion, DnoList
from agent.numbers.dno_import import parse_time
from agent.numbers.explain import as_uri
from agent.numbers.reading import read_number

# A list may have 65,535 assertions; a screen shows these many, those with most numbers first.
SHOWN_ASSERTIONS = 30


def configure_inspect(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `inspect`."""
    parser.add_argument("list", metavar="LIST", type=Path, help="a list file")
    parser.add_argument("--json", action="store_true", help="the manifest and every assertion, as JSON")


def configure_lookup(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lookup`."""
    parser.add_argument("list", metavar="LIST", type=Path, help="a list file")
    parser.add_argument("numbers", metavar="NUMBER", nargs="+", help="digits, or a SIP or tel URI")
    add_country_argument(parser)
    parser.add_argument("--at", metavar="TIME", type=_time, help="look up as of then (default: now)")
    parser.add_argument("--json", action="store_true", help="one JSON object for each number")


def _time(text: str) -> float:
    try:
        when = parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if when is None:
        raise argparse.ArgumentTypeError("empty")
    return when


def inspect(args: argparse.Namespace) -> int:
    """Returns 0, or 1 when the list cannot be used."""
    try:
        with opened_list(args.list) as dno_list:
            _show_list(args, dno_list, time.time())
    except ConfigError as error:
        complain_of(error)
        return BAD_INPUT
    return OK


def _show_list(args: argparse.Namespace, dno_list: DnoList, when: float) -> None:
    manifest, sizes = dno_list.manifest, Counter(dno_list.count_by_assertion())
    if args.json:
        print_json(
            {
                "kind": KIND,
                "version": manifest.version,
                **asdict(manifest),
                "assertions": [_assertion(a) | {"numbers": n, "holds": a.holds(when)} for a, n in sizes.most_common()],
            }
        )
        return
    rows = [["version", manifest.version]]
    rows += [[name.replace("_", " "), _text(value)] for name, value in asdict(manifest).items() if name != "counts"]
    rows += [[name.replace("-", " "), f"{count:,}"] for name, count in manifest.counts.items()]
    print_table("", ["list", str(args.list)], rows)
    shown = sizes.most_common(SHOWN_ASSERTIONS)
    print_table(
        f"\n{len(sizes):,} assertions" + (f", the {SHOWN_ASSERTIONS} largest:" if len(sizes) > len(shown) else ""),
        ["category", "source", "asserted by", "verified", "expires", "numbers"],
        [[*_cells(a), f"{count:,}" + ("" if a.holds(when) else " (expired)")] for a, count in shown],
    )


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    return "never" if value is None else str(value)


def _cells(assertion: Assertion) -> list[str]:
    return [
        assertion.category.label,
        assertion.source,
        assertion.asserted_by,
        time_text(assertion.verified_at, "not stated"),
        time_text(assertion.expires_at, "never"),
    ]


def _assertion(assertion: Assertion) -> dict[str, Any]:
    return {
        "category": assertion.category.slug,
        "source": assertion.source,
        "asserted_by": assertion.asserted_by,
        "verified_at": time_text(assertion.verified_at, "") or None,
        "expires_at": time_text(assertion.expires_at, "") or None,
    }


def lookup(args: argparse.Namespace) -> int:
    """Returns 0 when every number was looked up, found or not; 1 when the list cannot be used."""
    when = time.time() if args.at is None else args.at
    results: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    try:
        with opened_list(args.list) as dno_list:
            for text in args.numbers:
                number = read_number(as_uri(text), args.country)
                hit = dno_list.lookup(number, when)
                results.append(
                    {
                        "input": text,
                        "kind": number.kind.name,
                        "digits": number.digits,
                        "listed": hit is not None,
                        "hit": _assertion(hit) if hit else None,
                    }
                )
                read_as = f"{number.kind.name} {number.digits}".strip()
                rows.append([text, read_as, *(["no", *[""] * 5] if hit is None else ["yes", *_cells(hit)])])
    except ConfigError as error:
        complain_of(error)
        return BAD_INPUT
    if args.json:
        print_json(results)
    else:
        columns = ["number", "read as", "listed", "category", "source", "asserted by", "verified", "expires"]
        print_table("", columns, rows)
    return OK
