"""What makes one version of a list of another: the controller makes deltas, agents apply them.

Pure. Lists are arrays: a number that comes in shifts what follows it, and adds one to every counter behind it. So a
delta says which stretches of the old version to take as they are, which to take with something added byte by byte
(as bsdiff does), and what is new; zlib makes nothing of all the zeros in that.

    magic "SBCD" 0x01, size of the old version (u64), size of the new one (u64), little-endian; then a zlib stream of
    steps:  0, from (u64), length (u64)                     the old version's bytes
            1, from (u64), length (u64), length bytes       the old version's bytes plus these, modulo 256
            2, length (u64), length bytes                   these

A delta proves nothing: whoever applies one checks what came of it by its SHA-256.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

MAGIC: Final = b"SBCD\x01"
PIECE: Final = 1 << 16
"""Bytes that are worked on at once, and that `apply_delta` gives at a time at most."""

BLOCK: Final = 64
"""Bytes by which stretches are found again; shorter ones are not worth a step of 17."""
WINDOW: Final = 128
"""Bytes that are held to be alike when half of them are the same."""
SEARCH: Final = 4096
WORTH: Final = 0.5
"""Of the new version's size: a larger delta saves nobody anything."""

_HEAD: Final = struct.Struct("<5sQQ")
_SPAN: Final = struct.Struct("<QQ")
_LENGTH: Final = struct.Struct("<Q")
_TAKE, _ADD, _NEW = 0, 1, 2


class DeltaError(ValueError):
    """This is no delta, or not to this version."""


# --- making


def make_delta(base: bytes, target: bytes) -> bytes | None:
    """The delta from `base` to `target`; None where the whole would do as well."""
    packer = zlib.compressobj(9)
    head = _HEAD.pack(MAGIC, len(base), len(target))
    packed = [head]
    size = len(head)
    for step in _steps(base, target):
        piece = packer.compress(step)
        size += len(piece)
        if size > len(target) * WORTH:
            return None
        packed.append(piece)
    packed.append(packer.flush())
    delta = b"".join(packed)
    return delta if len(delta) <= len(target) * WORTH else None


def _steps(base: bytes, target: bytes) -> Iterator[bytes]:
    places: dict[bytes, int] = {}
    for at in range(0, len(base) - BLOCK + 1, BLOCK):
        places.setdefault(base[at : at + BLOCK], at)
    here = shift = 0  # `shift` is how far the same stretch lies from here in the old version
    while here < len(target):
        if (length := _same(base, here + shift, target, here)) >= BLOCK:
            yield bytes((_TAKE,)) + _SPAN.pack(here + shift, length)
        elif length := _alike(base, here + shift, target, here):
            there = here + shift
            yield bytes((_ADD,)) + _SPAN.pack(there, length)
            yield _minus(target[here : here + length], base[there : there + length])
        else:
            stop = min(here + SEARCH, len(target))
            found = next((at for at in range(here, stop) if target[at : at + BLOCK] in places), stop)
            length = found - here
            if found < stop:
                shift = places[target[found : found + BLOCK]] - found
            if length:
                yield bytes((_NEW,)) + _LENGTH.pack(length) + target[here:found]
        here += length


def _same(base: bytes, there: int, target: bytes, here: int) -> int:
    """How many bytes from there and from here are the same."""
    if there < 0:
        return 0
    most = min(len(base) - there, len(target) - here)
    length, step = 0, BLOCK
    while length < most:
        step = min(step, most - length)
        at, to = there + length, here + length
        if base[at : at + step] == target[to : to + step]:
            length += step
            step = min(step * 2, PIECE)
        elif step == 1:
            break
        else:
            step //= 2
    return max(length, 0)


def _alike(base: bytes, there: int, target: bytes, here: int) -> int:
    """How many bytes are the same at least half of the time, up to a piece."""
    length = 0
    while there >= 0 and length + WINDOW <= PIECE:
        ours = target[here + length : here + length + WINDOW]
        theirs = base[there + length : there + length + WINDOW]
        if not ours or len(ours) != len(theirs) or 2 * _minus(ours, theirs).count(0) < len(ours):
            break
        length += len(ours)
    return length


def _minus(left: bytes, right: bytes) -> bytes:
    """Byte by byte, modulo 256: each byte's highest bit apart, so that no borrow goes on to the next."""
    size = len(left)
    high = int.from_bytes(b"\x80" * size, "little")
    a, b = int.from_bytes(left, "little"), int.from_bytes(right, "little")
    return (((a | high) - (b & ~high)) ^ ((a ^ b) & high) ^ high).to_bytes(size, "little")


def _plus(left: bytes, right: bytes) -> bytes:
    """Byte by byte, modulo 256."""
    size = len(left)
    high = int.from_bytes(b"\x80" * size, "little")
    a, b = int.from_bytes(left, "little"), int.from_bytes(right, "little")
    return (((a & ~high) + (b & ~high)) ^ ((a ^ b) & high)).to_bytes(size, "little")


# --- applying


def apply_delta(base: bytes | memoryview, delta: bytes | memoryview, most: int) -> Iterator[bytes]:
    """The new version in pieces, at most `most` bytes of it. Raises DeltaError, also after some pieces."""
    if len(delta) < _HEAD.size:
        raise DeltaError("is too short for a delta")
    magic, base_size, size = _HEAD.unpack_from(delta)
    if magic != MAGIC:
        raise DeltaError("does not start like a delta")
    if base_size != len(base):
        raise DeltaError(f"is to a version of {base_size} bytes, not of {len(base)}")
    if size > most:
        raise DeltaError(f"makes {size} bytes, and may make {most}")
    steps = _Steps(delta[_HEAD.size :])
    made = 0
    while made < size:
        for piece in _step(base, steps, size - made):
            made += len(piece)
            yield piece
    steps.finish()


def _step(base: bytes | memoryview, steps: "_Steps", left: int) -> Iterator[bytes]:
    kind = steps.take(1)[0]
    there = 0
    if kind == _NEW:
        (length,) = _LENGTH.unpack(steps.take(_LENGTH.size))
    elif kind in (_TAKE, _ADD):
        there, length = _SPAN.unpack(steps.take(_SPAN.size))
        if there + length > len(base):
            raise DeltaError("takes more than the old version has")
    else:
        raise DeltaError(f"has a step of kind {kind}")
    if not 0 < length <= left:
        raise DeltaError("has a step of an impossible length")
    for at in range(0, length, PIECE):
        size = min(PIECE, length - at)
        old = b"" if kind == _NEW else bytes(base[there + at : there + at + size])
        if kind == _TAKE:
            yield old
        elif kind == _ADD:
            yield _plus(old, steps.take(size))
        else:
            yield steps.take(size)


class _Steps:
    """The zlib stream, as much of it at a time as is asked for."""

    def __init__(self, packed: bytes | memoryview) -> None:
        self._unpacker = zlib.decompressobj()
        self._rest: bytes | memoryview = packed

    def take(self, size: int) -> bytes:
        pieces = []
        while size:
            try:
                piece = self._unpacker.decompress(self._rest, size)
            except zlib.error as error:
                raise DeltaError(f"is damaged ({error})") from None
            self._rest = self._unpacker.unconsumed_tail
            if not piece:
                raise DeltaError("ends too early")
            size -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def finish(self) -> None:
        """Nothing may follow."""
        try:
            more = self._unpacker.decompress(self._rest, 1)
        except zlib.error as error:
            raise DeltaError(f"is damaged ({error})") from None
        if more or not self._unpacker.eof or self._unpacker.unused_data:
            raise DeltaError("does not end where it should")
