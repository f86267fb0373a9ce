"""What all TOML documents of the operator share: their syntax, and the words in which an error names its place.

Knows no document's keys. An error is a ConfigError with the path of its value ("limits[2].rate"); all errors of a
document come at once, as ConfigErrors.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date, time
from difflib import get_close_matches
from math import isfinite
from typing import Any, Final

from agent.model import ConfigError, ConfigErrors

ERRORS_MAX: Final = 100
"""Errors reported of one document; who made more gave the wrong file."""

KEY_MAX: Final = 64
"""Characters of a key that an error repeats."""

BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)

_TOML_PLACE: Final = re.compile(r"(.*) \(at (line \d+, column \d+|end of document)\)", re.DOTALL)


def read_toml(text: str) -> dict[str, Any]:
    """The table that this document is. Raises ConfigErrors; a syntax error names line and column."""
    try:
        return tomllib.loads(text.removeprefix("\N{BYTE ORDER MARK}"))
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.fullmatch(str(error))
        fault = ConfigError(place[2], place[1]) if place else ConfigError("", str(error))
    except ValueError:
        fault = ConfigError("", "holds a number of too many digits")  # Python converts at most 4300
    except RecursionError:
        fault = ConfigError("", "is nested too deeply")
    raise ConfigErrors([fault])


def raise_all(errors: list[ConfigError]) -> None:
    """Raise ConfigErrors of them, the first ERRORS_MAX in full; nothing if there are none."""
    if len(errors) > ERRORS_MAX:
        errors[ERRORS_MAX:] = [ConfigError("", f"and {len(errors) - ERRORS_MAX} more errors")]
    if errors:
        raise ConfigErrors(errors)


def under(path: str, key: str) -> str:
    """The path of a key in the table at `path`."""
    shown = key if len(key) <= KEY_MAX and BARE_KEY.fullmatch(key) else quoted(key)
    return f"{path}.{shown}" if path else shown


def header(path: str) -> str:
    """The name of a table's header: TOML counts the tables of an array by itself."""
    return re.sub(r"\[[0-9]+\]", "", path)


def suggestion(word: str, known: Sequence[str]) -> str:
    """What the operator may have meant by `word`."""
    close = get_close_matches(word[:KEY_MAX].lower().replace("-", "_"), known, n=1)
    return f'did you mean "{close[0]}"?' if close else f"known: {', '.join(known)}"


def quoted(text: str) -> str:
    """Text of the operator inside an error: printable, and not too much of it."""
    shown = text if len(text) <= KEY_MAX else text[:KEY_MAX] + "..."
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else ascii(c)[1:-1] for c in shown) + '"'


def kind(value: object) -> str:
    """What a value of TOML is, in words."""
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number with a fraction"),
        (str, "a string"),
        (Mapping, "a table"),
        (list, "an array"),
        ((date, time), "a date or time"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


def may_be_quoted(value: object) -> bool:
    """Whether a string was meant and only its quotes are missing."""
    return isinstance(value, int | float | date | time) and not isinstance(value, bool)


def finite(value: float, where: str) -> float:
    """A number as a float. Raises ConfigError for infinities, what is no number, and integers beyond any float."""
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not isfinite(number):
        raise ConfigError(where, "must be a finite number")
    return number
