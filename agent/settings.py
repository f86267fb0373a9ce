"""Fills settings from a table of TOML: a frozen dataclass is a table, its fields are the keys, its defaults theirs.

Knows types and ranges, and no section: a new field of any settings is a new key, without a line of code. What only
its owner can judge is judged in the dataclass's own `__post_init__`, by ConfigError (naming its key) or ValueError.

Field types: bool, int, float, str, Path, Literal and StrEnum (one of some words), tuple[T, ...] (an array), a
dataclass (a table), tuple[dataclass, ...] (an array of tables), a named tuple of host and port ("127.0.0.1:5060");
`T | None` may be left out; `Annotated[int, Range(1, 9)]` is a number within bounds. A float takes a whole number;
nothing else is converted. Every error is a ConfigError with the path of its value.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from agent.documents import finite, header, kind, may_be_quoted, quoted, suggestion, under
from agent.model import ConfigError, ConfigErrors

T = TypeVar("T")

_PORT: Final = re.compile("[0-9]{1,5}")

PATH_MAX: Final = 4096
"""PATH_MAX of Linux; a longer one is a mistake that only open(2) would find."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, both included."""

    lowest: float
    highest: float


def fill(settings: type[T], table: Mapping[str, Any], path: str, errors: list[ConfigError]) -> T | None:
    """An instance of the dataclass `settings` from the `table` at `path`; None, and `errors` grow, if it is wrong."""
    before = len(errors)
    types = get_type_hints(settings, include_extras=True)
    known = {field.name: field for field in fields(cast("Any", settings)) if field.init}
    values: dict[str, Any] = {}
    for key, value in table.items():
        where = under(path, key)
        try:
            if key not in known:
                raise ConfigError(where, f"unknown key; {suggestion(key, tuple(known))}")
            values[key] = _value(types[key], value, where, errors)
        except ConfigError as error:
            errors.append(error)
    errors.extend(
        ConfigError(under(path, name), "is missing")
        for name, field in known.items()
        if name not in table and _is_required(field)
    )
    return _build(settings, values, path, errors) if len(errors) == before else None


def _build(settings: type[T], values: dict[str, Any], path: str, errors: list[ConfigError]) -> T | None:
    """Let the dataclass judge what only it can."""
    try:
        return settings(**values)
    except ConfigErrors as several:
        errors.extend(ConfigError(_joined(path, error.field), error.reason) for error in several.errors)
    except ConfigError as error:
        errors.append(ConfigError(_joined(path, error.field), error.reason))
    except ValueError as error:
        errors.append(ConfigError(path, str(error)))
    return None


def _joined(path: str, field: str) -> str:
    """The path of a field as its owner names it: "port", or "redirect.port" already."""
    if not field or not path or field == path or field.startswith(f"{path}."):
        return field or path
    return f"{path}.{field}"


def _is_required(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _value(wanted: Any, value: object, where: str, errors: list[ConfigError]) -> Any:
    """The value as a `wanted`. Raises ConfigError, or adds several to `errors`."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return _within(arguments[1:], _value(arguments[0], value, where, errors), where)
    if origin in (Union, UnionType):  # TOML has no null: what is written is the type that is not None
        (some,) = (argument for argument in arguments if argument is not type(None))
        return _value(some, value, where, errors)
    if origin is Literal:
        return _word(arguments, value, where)
    if origin is tuple:
        return _array(arguments[0], value, where, errors)
    if isinstance(wanted, type) and issubclass(wanted, StrEnum):
        return wanted(_word(tuple(wanted), value, where))
    if isinstance(wanted, type) and getattr(wanted, "_fields", ()) == ("host", "port"):
        return wanted(*host_and_port(str(_scalar(str, value, where)), where))
    if is_dataclass(wanted):
        return fill(cast("type[Any]", wanted), as_table(value, where), where, errors)
    return _scalar(wanted, value, where)


def as_table(value: object, where: str) -> Mapping[str, Any]:
    """The value, if it is a table. Raises ConfigError."""
    if isinstance(value, list):
        raise ConfigError(where, f"there is only one: write [{header(where)}]")
    if not isinstance(value, Mapping):
        raise ConfigError(where, f"must be a table, not {kind(value)}")
    return value


def _array(wanted: Any, value: object, where: str, errors: list[ConfigError]) -> tuple[Any, ...]:
    if not isinstance(value, list):
        if is_dataclass(wanted):
            raise ConfigError(where, f"there may be several: write [[{header(where)}]]")
        raise ConfigError(where, f"must be an array, not {kind(value)}: put it in [ ]")
    elements = []
    for n, element in enumerate(value):
        try:
            elements.append(_value(wanted, element, f"{where}[{n}]", errors))
        except ConfigError as error:
            errors.append(error)
    return tuple(elements)


def _word(words: tuple[str, ...], value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(where, f"must be one of {', '.join(map(quoted, words))}, not {kind(value)}")
    if value not in words:
        raise ConfigError(where, f"{quoted(value)} is not known; {suggestion(value, words)}")
    return value


def _scalar(wanted: type, value: object, where: str) -> bool | int | float | str | Path:
    if wanted is float:
        return _float(value, where)
    text = wanted is Path or wanted is str
    expected: type = str if text else wanted
    if not isinstance(value, expected) or (wanted is int and isinstance(value, bool)):
        words = {bool: "true or false", int: "a whole number"}.get(wanted, "a string")
        hint = ": put it in quotes" if text and may_be_quoted(value) else ""
        raise ConfigError(where, f"must be {words}, not {kind(value)}{hint}")
    return _path(str(value), where) if wanted is Path else cast("bool | int | str", value)


def _path(text: str, where: str) -> Path:
    if not text or "\0" in text or len(text.encode(errors="replace")) > PATH_MAX:
        raise ConfigError(where, "must be the name of a file")
    return Path(text)


def _float(value: object, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigError(where, f"must be a number, not {kind(value)}")
    return finite(value, where)


def _within(bounds: tuple[object, ...], value: Any, where: str) -> Any:
    for bound in bounds:
        if isinstance(bound, Range) and not bound.lowest <= value <= bound.highest:
            raise ConfigError(where, f"must be from {bound.lowest:g} to {bound.highest:g}")
    return value


def host_and_port(text: str, field: str) -> tuple[str, int]:
    """The parts of "127.0.0.1:9810" or "[::1]:9810"; port 0 is "any free one". Raises ConfigError naming `field`."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ip_address(bare)
    except ValueError:
        raise ConfigError(field, f'{quoted(text)} is no address and port: write "127.0.0.1:9810"') from None
    if (address.version == 6) != (bare != host):
        raise ConfigError(field, f'{quoted(text)}: an IPv6 address stands in brackets: write "[::1]:9810"')
    if not _PORT.fullmatch(port) or int(port) > 65_535:
        raise ConfigError(field, f"{quoted(text)} has no port from 0 to 65535")
    return str(address), int(port)
