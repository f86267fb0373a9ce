"""Types of columns that are the same on every database: instants, 64-bit numbers without sign, JSON, words.

Knows no table.
"""

import json
from typing import Any, Final

from sqlalchemy import BigInteger, Dialect, Text
from sqlalchemy.types import TypeDecorator

_MICROSECONDS: Final = 1_000_000
_SIGN: Final = 1 << 63
_SPAN: Final = 1 << 64


class Instant(TypeDecorator[float]):
    """Epoch seconds, kept as whole microseconds: equal values stay equal on their way through any database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else round(value * _MICROSECONDS)

    def process_result_value(self, value: int | None, dialect: Dialect) -> float | None:  # noqa: ARG002
        return None if value is None else value / _MICROSECONDS


class Unsigned(TypeDecorator[int]):
    """0 to 2^64 - 1 in a column of signed ones. Only equality means anything in the database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return value - _SPAN if value is not None and value >= _SIGN else value

    def process_result_value(self, value: int | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return value + _SPAN if value is not None and value < 0 else value


class Json(TypeDecorator[Any]):
    """Objects, arrays and scalars as text in one spelling; ASCII, so that every database takes every string."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: object, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else json.dumps(value, separators=(",", ":"), sort_keys=True)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:  # noqa: ARG002
        return None if value is None else json.loads(value)


class Words(TypeDecorator[str]):
    """Text, also of strangers: what PostgreSQL does not take (U+0000, half a surrogate pair) becomes a "?"."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        if value is None or (value.isascii() and "\0" not in value):
            return value
        return value.encode("utf-8", "replace").decode().replace("\0", "?")
