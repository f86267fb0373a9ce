"""Writes TOML 1.0 for people to read. Knows tables, arrays and plain values; must not know what they mean.

The standard library reads TOML and does not write it. What is written here, `tomllib` reads back the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

Value = str | int | float | bool | Sequence["Value"] | Mapping[str, "Value"]
Table = Mapping[str, Value]

LINE: Final = 100
"""Columns; a longer array is written with one value per line."""

EXACT_FLOAT: Final = 2.0**53
"""Below it a float without fraction is written as an integer, as a person would."""

_ESCAPES: Final = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def dumps(table: Table) -> str:
    """The document. Keys must be bare keys and numbers be finite; plain values come before tables."""
    return "\n".join(_lines(table, "")).lstrip("\n") + "\n"


def _lines(table: Table, path: str) -> Iterator[str]:
    below = {key: value for key, value in table.items() if _is_table(value) or _is_tables(value)}
    for key, value in table.items():
        if key not in below:
            yield from _assignment(key, value)
    for key, value in below.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield from ("", f"[{name}]", *_lines(value, name))
            continue
        assert isinstance(value, Sequence)
        for element in value:
            assert isinstance(element, Mapping)
            yield from ("", f"[[{name}]]", *_lines(element, name))


def _is_table(value: Value) -> bool:
    return isinstance(value, Mapping)


def _is_tables(value: Value) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and any(map(_is_table, value))


def _assignment(key: str, value: Value) -> Iterator[str]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        yield f"{key} = {_plain(value)}"
        return
    elements = [_plain(element) for element in value]
    line = f"{key} = [{', '.join(elements)}]"
    if len(line) <= LINE:
        yield line
    else:
        yield from (f"{key} = [", *(f"    {element}," for element in elements), "]")


def _plain(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{"".join(map(_character, value))}"'
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < EXACT_FLOAT and str(value) != "-0.0"
        return str(int(value)) if whole else repr(value)
    assert isinstance(value, int)
    return str(value)


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return character if character >= " " and character != "\x7f" else f"\\u{ord(character):04X}"
