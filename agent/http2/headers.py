"""Header blocks: read with the peer's table, written without one (RFC 7541).

A client's first calls fill its table, and from then on the block of a method is the same few bytes: what it was read
as is remembered for as long as the table stays as it is. What we write refers to the static table only, so that a block
is made once and for all connections.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from agent.http2.errors import Code, ConnectionFault
from agent.http2.limits import LIST_BYTES, TABLE_BYTES

KNOWN_MAX: Final = 64
"""Blocks remembered per connection: methods times deadlines, of which clients have few."""

KNOWN_BYTES: Final = 512
"""Of such a block: one that says the same as another before is some ten bytes."""

_RESIZED_THRICE: Final = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]{0,9}[\x00-\x7f]){3}")
"""Two updates of the table's size can be due before a block (RFC 7541 4.2); thousands are work for nothing."""

HeaderList = list[tuple[bytes, bytes]]
Read = TypeVar("Read")


class _Table(HeaderTable):
    """A table that knows whether it was changed."""

    changed = False

    def add(self, name: bytes, value: bytes) -> None:
        self.changed = True
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return HeaderTable.maxsize.fget(self)  # type: ignore[attr-defined, no-any-return]

    @maxsize.setter
    def maxsize(self, size: int) -> None:
        self.changed = True
        HeaderTable.maxsize.fset(self, size)  # type: ignore[attr-defined]


class BlockReader(Generic[Read]):
    """Reads the blocks of one connection. `understand` makes of a list what is remembered of it."""

    def __init__(self, understand: Callable[[HeaderList], Read]) -> None:
        self._understand = understand
        self._known: dict[bytes, Read] = {}
        self._decoder: Decoder | None = None  # a kilobyte, for who asks something
        self._table = _Table()

    def read(self, block: bytes) -> Read:
        """What the block says. Raises ConnectionFault: with a block unread, the table is not the peer's any more."""
        known = self._known.get(block)
        if known is not None:
            return known
        self._table.changed = False
        read = self._understand(self._decoded(block))
        if self._table.changed:
            self._known.clear()
        elif len(self._known) < KNOWN_MAX and len(block) <= KNOWN_BYTES:
            self._known[block] = read
        return read

    def _decoded(self, block: bytes) -> HeaderList:
        if self._decoder is None:
            self._decoder = Decoder(LIST_BYTES)
            self._decoder.header_table = self._table
            self._decoder.max_allowed_table_size = TABLE_BYTES
        if _RESIZED_THRICE.match(block):
            raise ConnectionFault(Code.COMPRESSION_ERROR, "a header table that is resized again and again")
        try:
            return [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError:
            raise OversizedListFault from None
        except (HPACKError, IndexError, ValueError, OverflowError) as error:
            raise ConnectionFault(Code.COMPRESSION_ERROR, f"header block: {type(error).__name__}") from None


class OversizedListFault(ConnectionFault):
    """The list is longer than we said we take."""

    def __init__(self) -> None:
        super().__init__(Code.ENHANCE_YOUR_CALM, f"header list of more than {LIST_BYTES} bytes")


# -- out ------------------------------------------------------------------------------------------------------------

_NAMES: Final = {name: index for index, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
_PAIRS: Final = {pair: index for index, pair in enumerate(HeaderTable.STATIC_TABLE, 1)}


def block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A header block that no table changes and that changes none: literals without indexing (RFC 7541 6.2.2)."""
    parts = bytearray()
    for name, value in headers:
        if value and (name, value) in _PAIRS:
            parts += _integer(_PAIRS[name, value], 7, 0x80)
        elif name in _NAMES:
            parts += _integer(_NAMES[name], 4, 0) + _string(value)
        else:
            parts += b"\0" + _string(name) + _string(value)
    return bytes(parts)


def _string(text: bytes) -> bytes:
    return _integer(len(text), 7, 0) + text


def _integer(number: int, bits: int, flags: int) -> bytes:
    """RFC 7541 5.1."""
    most = (1 << bits) - 1
    if number < most:
        return bytes((flags | number,))
    parts = bytearray((flags | most,))
    number -= most
    while number >= 128:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)
