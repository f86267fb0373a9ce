"""The file that carries what is counted over a restart: its head, sections and checksum. Performs no I/O.

    magic and version, length of the head, the head as JSON
    section: kind, length of its name, length of its data, when it was taken; name, data         any number of them
    end: a section of kind END without name and data, then SHA-256 over all that precedes it

Times are those of the monotonic clock, which all processes of one boot share: the age of a section is exact, whatever
becomes of the wall clock, and a suspended host is as if no time had passed, as it is for a process that runs on. After
another boot the difference of the wall clocks stands for it.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAGIC: Final = b"SBCKEPT\x01"
KEY_BYTES: Final = 16
SECRET_BYTES: Final = 32
DIGEST_BYTES: Final = 32
HEAD_MAX: Final = 4096

RATES: Final = b"RATE"
ATTEMPTS: Final = b"TRYS"
CALLS: Final = b"CALL"
CUSTOMERS: Final = b"CUST"
END: Final = b"END."

_FRONT: Final = struct.Struct("<8sI")
_SECTION: Final = struct.Struct("<4sIQd")


class Clocks(NamedTuple):
    """What time it is: which boot, seconds of the monotonic clock, seconds since the epoch."""

    boot: str
    monotonic: float
    wall: float


@dataclass(frozen=True, slots=True)
class Head:
    """What a process tells the next one. `key` (hexadecimal) made the hashes in it, `scheme` says how
    (agent/hashing.py); by `secret` copies get the same To tag. `clean`: nothing was decided after it."""

    scheme: str
    key: str
    secret: str
    generation: int
    boot: str
    monotonic: float
    wall: float
    clean: bool

    def elapsed(self, taken: float, now: Clocks) -> float:
        """Seconds since then. Negative where no clock can tell: after a boot with the wall clock set back."""
        if now.boot == self.boot:
            return now.monotonic - taken
        return now.wall - self.wall + self.monotonic - taken if now.wall >= self.wall else -1.0


class Section(NamedTuple):
    """`taken` is of the monotonic clock of the process that wrote it."""

    kind: bytes
    name: bytes
    data: "Buffer"
    taken: float


def front(head: Head) -> bytes:
    """How a file begins."""
    text = json.dumps(asdict(head)).encode()
    return _FRONT.pack(MAGIC, len(text)) + text


def section(one: Section) -> bytes:
    """What precedes the data of a section."""
    return _SECTION.pack(one.kind, len(one.name), memoryview(one.data).nbytes, one.taken) + one.name


END_MARK: Final = section(Section(END, b"", b"", 0.0))


def read(data: "Buffer") -> tuple[Head, list[Section]]:
    """What the file holds; the sections are views of it. Raises ValueError, which says what is wrong with it."""
    view = memoryview(data)
    if len(view) < _FRONT.size + DIGEST_BYTES:
        raise ValueError("is too short")
    magic, length = _FRONT.unpack_from(view)
    if magic != MAGIC:
        raise ValueError("is of another kind or version")
    body, digest = view[:-DIGEST_BYTES], view[-DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("does not have the checksum that it states")
    if length > HEAD_MAX:
        raise ValueError("has no head")
    head = _head_of(bytes(body[_FRONT.size : _FRONT.size + length]))
    return head, list(_sections(body, _FRONT.size + length))


def _head_of(text: bytes) -> Head:
    try:
        head = Head(**json.loads(text))
        times = (float(head.monotonic), float(head.wall), float(head.generation))
        sizes = (len(bytes.fromhex(head.key)), len(bytes.fromhex(head.secret)))
    except (TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"has no head: {error}") from error
    if sizes != (KEY_BYTES, SECRET_BYTES) or not all(map(isfinite, times)):
        raise ValueError("has a head that cannot be")
    return head


def _sections(body: memoryview, at: int) -> Iterator[Section]:
    while at + _SECTION.size <= len(body):
        kind, name_length, length, taken = _SECTION.unpack_from(body, at)
        at += _SECTION.size
        if kind == END:
            if at != len(body):
                break
            return
        name = bytes(body[at : at + name_length])
        at += name_length
        yield Section(kind, name, body[at : at + length], taken)
        at += length
    raise ValueError("ends before its end")
