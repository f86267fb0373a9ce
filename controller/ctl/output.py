"""How sbcctl speaks: results on stdout (tables or JSON), complaints on stderr; times as people write them.

Exit codes and tables are those of `sbc-agent`.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from agent.cli.output import BAD_INPUT, EXIT_HELP, OK, USAGE_ERROR, print_json, print_table

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["BAD_INPUT", "EXIT_HELP", "OK", "USAGE_ERROR", "complain", "print_json", "print_line", "print_table"]

UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd]?)", re.ASCII)
_AGO: Final = (("d", 86_400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))
NUMBER_MAX: Final = (1 << 31) - 1
SECONDS_MAX: Final = 10.0 * 366 * 86_400


def complain(message: str) -> None:
    """One line on stderr, named after the program so that it can be found in a script's output."""
    print(f"sbcctl: {message}", file=sys.stderr)


def print_line(value: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own, at once: for what goes on."""
    print(json.dumps(value, ensure_ascii=False, separators=(",", ":")), flush=True)


# --- times as arguments


def duration(text: str) -> float:
    """Seconds of "90s", "15m", "24h", "7d", "30"; for argparse."""
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * UNITS[match[2] or "s"] if match else -1.0
    if not 0 <= seconds <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: write 90s, 15m, 24h or 7d")
    return seconds


def moment(text: str) -> float:
    """Epoch seconds of an RFC 3339 time (without a zone: UTC), or of how long ago, "15m"; for argparse."""
    if _DURATION.fullmatch(text) and text[-1] in UNITS:
        return time.time() - duration(text)
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: 2026-10-14T15:04:05Z, or how long ago, 15m, 24h, 7d"
        ) from None


def number(text: str) -> int:
    """A whole number above zero; for argparse."""
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) <= NUMBER_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def into_duration(seconds: float, message: "Duration") -> None:
    """Set a field of a request."""
    message.FromMilliseconds(round(seconds * 1000))


def into_timestamp(when: float, message: "Timestamp") -> None:
    """Set a field of a request. Raises ValueError beyond the year 9999."""
    message.FromMilliseconds(round(when * 1000))


# --- times in tables


def at(stamp: "Timestamp") -> str:
    """ "2026-10-14 15:04:05Z"; "" absent."""
    if not stamp.seconds:
        return ""
    return datetime.fromtimestamp(stamp.seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def ago(stamp: "Timestamp", now: float) -> str:
    """ "12 s ago", "in 3 h"; "never"."""
    if not stamp.seconds:
        return "never"
    past = now - stamp.seconds - stamp.nanos / 1e9
    return f"{span(past)} ago" if past >= 0 else f"in {span(-past)}"


def span(seconds: float) -> str:
    """In the largest unit that fits."""
    for unit, size in _AGO:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "0 s"


def two_columns(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Names and values; what has no value is left out."""
    print_table(title, ["what", "value"], [row for row in rows if row[1]])
