"""The bytes of a spool segment: how batches of records are framed, checked and found again after damage.

Knows the format and nothing of files, directories or what a record says. A segment is one header and then batches;
each header and each payload has a CRC of its own, so that a batch cut short by a crash ("torn": its header is whole,
its payload is not all there) is told from bytes that changed ("damaged"), and reading goes on behind damage.

    segment header  magic, version, stream, epoch, first sequence, time it was made, CRC
    batch           magic, kind, coding, records, payload length, first sequence, time it was written, two CRCs; payload

A payload is JSON objects, one to a line, deflated where that makes it shorter. The records of a batch have consecutive
sequence numbers. Numbers are little-endian. Times are seconds since the epoch and only for people: nothing is ordered
by them.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

VERSION: Final = 1
SEGMENT_MAGIC: Final = b"SBCSPOOL"
BATCH_MAGIC: Final = b"\xf5SB\xfa"  # no UTF-8 text holds it
_SEGMENT: Final = struct.Struct("<8sHBxIQQd")
_BATCH: Final = struct.Struct("<4sBBHIIQdI")
_CRC: Final = struct.Struct("<I")
SEGMENT_HEADER: Final = _SEGMENT.size + _CRC.size
BATCH_HEADER: Final = _BATCH.size + _CRC.size

# Measured on call records of 570 bytes: level 1 makes them 87 bytes for 2.3 us, level 6 makes 76 for 5.5 us.
_DEFLATE_LEVEL: Final = 1
_RAW: Final = 0
_DEFLATED: Final = 1
# What one batch may hold: bounds the memory of a reader, and what one damaged byte can cost.
BATCH_RECORDS: Final = 4096
BATCH_TEXT: Final = 1 << 20
# One record can be longer than that bound (a 64 kB message, every byte escaped); nothing lawful is longer than this.
TEXT_MAX: Final = 1 << 24


class Kind(IntEnum):
    """What the records of a batch are. REFUSED is every attempt that a rule had something to say about."""

    REFUSED = 1
    ALLOWED = 2
    ROLLUP = 3

    @property
    def word(self) -> str:
        """ "refused", "allowed" or "rollup": what files, manifest and tools say."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself. `stream` is the kind that decides when it may go: REFUSED or ALLOWED."""

    stream: Kind
    epoch: int
    first: int
    created: float

    def encode(self) -> bytes:
        """SEGMENT_HEADER bytes."""
        body = _SEGMENT.pack(SEGMENT_MAGIC, VERSION, self.stream, 0, self.epoch, self.first, self.created)
        return body + _CRC.pack(zlib.crc32(body))


@dataclass(frozen=True, slots=True)
class Batch:
    """Records `first` to `last` of one kind, as they lie in bytes `offset` to `end` of their segment."""

    kind: Kind
    first: int
    count: int
    written: float
    offset: int
    end: int
    coding: int
    payload: bytes

    @property
    def last(self) -> int:
        return self.first + self.count - 1

    def text(self) -> bytes:
        """The records, one JSON object to a line. Raises ValueError where the payload is none (a fault of a writer)."""
        if self.coding == _RAW:
            return self.payload
        stream = zlib.decompressobj()
        try:
            text = stream.decompress(self.payload, TEXT_MAX)
        except zlib.error as error:
            raise ValueError(f"batch at byte {self.offset}: {error}") from error
        if not stream.eof:
            raise ValueError(f"batch at byte {self.offset}: more than {TEXT_MAX} bytes of text, or an end missing")
        return text

    def lines(self) -> list[bytes]:
        """One line for each record. Raises ValueError as `text` does, and when their number is not `count`."""
        lines = self.text().split(b"\n")
        if len(lines) != self.count:
            raise ValueError(f"batch at byte {self.offset}: {self.count} records stated, {len(lines)} found")
        return lines


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes `offset` to `end` of a segment that are no whole batch.

    `torn` is the ordinary end after a crash: a write that was never finished, and so never acknowledged. `count` is
    how many records, from sequence `first`, are lost; 0 where the bytes do not even tell that.
    """

    offset: int
    end: int
    reason: str
    torn: bool = False
    kind: Kind | None = None
    first: int = 0
    count: int = 0

    def __str__(self) -> str:
        lost = f", {self.count} records from {self.first} lost" if self.count else ""
        return f"bytes {self.offset} to {self.end}: {self.reason}{lost}"


def encode_batches(kind: Kind, first: int, lines: Sequence[bytes], written: float) -> Iterator[tuple[int, bytes]]:
    """Frame records as few batches: (how many records, the bytes) of each. A line must not hold a line feed."""
    start = size = 0
    for index, line in enumerate(lines):
        if index > start and (size + len(line) > BATCH_TEXT or index - start == BATCH_RECORDS):
            yield index - start, _encode_batch(kind, first + start, lines[start:index], written)
            start, size = index, 0
        size += len(line) + 1
    if lines:
        yield len(lines) - start, _encode_batch(kind, first + start, lines[start:], written)


def _encode_batch(kind: Kind, first: int, lines: Sequence[bytes], written: float) -> bytes:
    text = b"\n".join(lines)
    payload, coding = zlib.compress(text, _DEFLATE_LEVEL), _DEFLATED
    if len(payload) >= len(text):
        payload, coding = text, _RAW
    header = _BATCH.pack(BATCH_MAGIC, kind, coding, 0, len(lines), len(payload), first, written, zlib.crc32(payload))
    return b"".join((header, _CRC.pack(zlib.crc32(header)), payload))


def read_segment_header(data: bytes) -> SegmentHeader:
    """The header at the start of a segment. Raises ValueError, in words for the operator."""
    if len(data) < SEGMENT_HEADER:
        raise ValueError(f"{len(data)} bytes, shorter than a segment header")
    magic, version, stream, reserved, epoch, first, created = _SEGMENT.unpack_from(data)
    if magic != SEGMENT_MAGIC:
        raise ValueError("not a segment of a record spool")
    if zlib.crc32(data[: _SEGMENT.size]) != _CRC.unpack_from(data, _SEGMENT.size)[0] or data[11]:
        raise ValueError("the segment header is damaged")
    if version != VERSION or reserved:
        raise ValueError(f"segment format {version}, this program reads {VERSION}")
    if stream not in (Kind.REFUSED, Kind.ALLOWED):
        raise ValueError(f"unknown stream {stream}")
    return SegmentHeader(Kind(stream), epoch, first, created)


def read_batches(data: bytes, offset: int = SEGMENT_HEADER) -> Iterator[Batch | Damage]:
    """Every whole batch from `offset` (a batch boundary), and what lies between them. Never raises.

    A torn end comes last, if there is one. Behind damage reading goes on at the next batch whose header is whole.
    """
    size = len(data)
    while offset < size:
        found = _batch_at(data, offset)
        if isinstance(found, Damage) and not found.torn and found.end < size:
            found = _until_next_batch(data, found)
        yield found
        offset = found.end


def _batch_at(data: bytes, offset: int) -> Batch | Damage:
    """What begins at `offset`. Damage whose extent is unknown ends one byte further."""
    size = len(data)
    if size - offset < BATCH_HEADER:
        if data.startswith(BATCH_MAGIC[: size - offset], offset) or not any(data[offset:]):
            return Damage(offset, size, "a batch header cut short", torn=True)
        return Damage(offset, size, "no batch")
    header = data[offset : offset + _BATCH.size]
    magic, kind, coding, reserved, count, length, first, written, crc = _BATCH.unpack(header)
    if magic != BATCH_MAGIC or zlib.crc32(header) != _CRC.unpack_from(data, offset + _BATCH.size)[0]:
        if not any(data[offset:]):  # a file system may lengthen a file before it has written what is in it
            return Damage(offset, size, "zeros to the end", torn=True)
        return Damage(offset, offset + 1, "a damaged batch header")
    start = offset + BATCH_HEADER
    end = start + length
    if kind not in (1, 2, 3) or coding not in (_RAW, _DEFLATED) or reserved or not count:
        return Damage(offset, min(end, size), "a batch of an unknown sort")
    if end > size:
        return Damage(offset, size, "a batch cut short", True, Kind(kind), first, count)
    payload = data[start:end]
    if zlib.crc32(payload) != crc:
        return Damage(offset, end, "a damaged batch", False, Kind(kind), first, count)
    return Batch(Kind(kind), first, count, written, offset, end, coding, payload)


def _until_next_batch(data: bytes, damage: Damage) -> Damage:
    """The same damage, up to the next whole batch header or the end."""
    end = damage.end
    if data.startswith(BATCH_MAGIC, end) and _header_is_whole(data, end):
        return damage
    while (end := data.find(BATCH_MAGIC, end)) >= 0 and not _header_is_whole(data, end):
        end += 1
    if end < 0:
        end = len(data)
    return Damage(damage.offset, end, damage.reason, False, damage.kind, damage.first, damage.count)


def _header_is_whole(data: bytes, offset: int) -> bool:
    if len(data) - offset < BATCH_HEADER:
        return False
    header = data[offset : offset + _BATCH.size]
    return zlib.crc32(header) == int(_CRC.unpack_from(data, offset + _BATCH.size)[0])
