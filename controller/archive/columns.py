"""Call records as columns, by the compiled reader of lines where this machine has one.

It takes what agents write and nothing else, a batch as a whole or not at all; what it does not take is read by rows.py,
which is its reference. Knows nothing of whose records they are.
"""

from typing import Any, Final

import pyarrow as pa

from agent import native

_PLAIN: Final = {
    pa.string(): "string",
    pa.bool_(): "bool",
    pa.uint64(): "uint64",
    pa.timestamp("us", tz="UTC"): "time",
}


class Columns:
    """Rows of `fields`, of which the first must have a value in each. One thread at a time."""

    def __init__(self, fields: list[pa.Field]) -> None:
        self._type = pa.struct(fields)
        made = None if native.columns is None else native.columns.Columns(tuple(map(_described, fields)))
        self._reader = made

    def add(self, text: bytes, count: int) -> bool:
        """Rows of so many lines; False, and nothing added, where one is not plain, or this machine has no reader."""
        return self._reader is not None and bool(self._reader.add(text, count))

    def take(self) -> list[pa.Array]:
        """The columns of all rows that were added; then there are none."""
        if self._reader is None:
            return [pa.array([], field.type) for field in self._type]
        *_, taken = self._reader.take()
        return [_array(field.type, one) for field, one in zip(self._type, taken, strict=True)]


def _described(field: pa.Field) -> Any:
    """As the compiled reader wants it. Raises KeyError for a type that it does not know."""
    kind = field.type
    if pa.types.is_list(kind):
        return field.name, "list", (_described(kind.value_field),)
    if pa.types.is_struct(kind):
        return field.name, "struct", tuple(map(_described, kind))
    return field.name, _PLAIN[kind], ()


def _array(kind: pa.DataType, taken: Any) -> pa.Array:
    """Without a copy."""
    length, nulls, *pieces, fields = taken
    valid, values, text = (None if piece is None else pa.py_buffer(piece) for piece in pieces)
    buffers = [valid] if pa.types.is_struct(kind) else [valid, values]
    if pa.types.is_string(kind):
        buffers.append(text)
    within = [] if kind.num_fields == 0 else [kind.value_field] if pa.types.is_list(kind) else list(kind)
    children = [_array(field.type, one) for field, one in zip(within, fields, strict=True)]
    return pa.Array.from_buffers(kind, length, buffers, nulls, 0, children or None)
