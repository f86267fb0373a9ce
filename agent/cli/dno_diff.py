"""`sbc-agent dno diff`: what two lists do not have in common."""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

from agent.cli.dno_files import complain_of, opened_list
from agent.cli.output import BAD_INPUT, OK, print_json, print_table
from agent.model import ConfigError
from agent.numbers.dno_compare import Difference, compare
from agent.numbers.sets import NumberSet


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("old", metavar="A", type=Path, help="a list file")
    parser.add_argument("new", metavar="B", type=Path, help="another one")
    parser.add_argument("--samples", metavar="N", type=int, default=10, help="ranges to show of each (default 10)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Returns 0 when both hold the same, 1 when they differ or one cannot be used."""
    try:
        with opened_list(args.old) as old, opened_list(args.new) as new:
            difference = compare(old, new)
    except ConfigError as error:
        complain_of(error)
        return BAD_INPUT
    if args.json:
        print_json({name: _summary(numbers, args.samples) for name, numbers in _parts(difference)})
    else:
        rows = [
            [name, f"{len(numbers):,}", ", ".join(_samples(numbers, args.samples))]
            for name, numbers in _parts(difference)
        ]
        print_table(f"{args.old} against {args.new}", ["what", "numbers", "for example"], rows)
    return BAD_INPUT if any(numbers for _, numbers in _parts(difference)) else OK


def _parts(difference: Difference) -> tuple[tuple[str, NumberSet], ...]:
    return ("added", difference.added), ("removed", difference.removed), ("changed", difference.changed)


def _samples(numbers: NumberSet, count: int) -> list[str]:
    return [str(piece) for piece in islice(numbers.pieces(), max(count, 0))]


def _summary(numbers: NumberSet, count: int) -> dict[str, Any]:
    return {"numbers": len(numbers), "samples": _samples(numbers, count)}
