"""The compiled file of a do-not-originate list: little-endian arrays that are used where they lie, and their proof.

    offset  size
    0       8     magic 89 44 4E 4F 0D 0A 1A 0A: a transfer in text mode breaks it (as PNG's does)
    8       2     format version, u16
    10      2     number of sections, u16
    12      4     size of the head, u32: everything before the content
    16      8     size of the file, u64
    24      32    SHA-256 of the head without these 32 bytes
    56      32*n  sections: name (12 bytes, zero-padded), bytes per item (u32), offset (u64), size (u64)
    ...           manifest, JSON in UTF-8; then zeros up to the content, which starts at a multiple of 64
    ...           content: the sections, each at a multiple of 64, zeros between them

The manifest holds the SHA-256 of the content, and the head's digest covers the manifest: every byte of the file is
under exactly one digest, and all are checked when it is opened. `assertions` is JSON; the other sections are the
arrays of agent.numbers.dno.DnoSections. Takes and gives memory; opens no files.
"""

import hashlib
import json
import struct
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

from agent.model import ConfigError
from agent.numbers.dno import KIND, Assertion, DnoCategory, DnoList, DnoSections, Manifest
from agent.numbers.dno_build import Contents

MAGIC: Final = b"\x89DNO\r\n\x1a\n"
FORMAT_VERSION: Final = 1
ALIGNMENT: Final = 64  # a cache line; more than any item needs
# The arrays are bounded by the numbering plan (10**10 suffixes would be 20 GB); JSON is bounded here.
MAX_JSON: Final = 64 << 20

_PREFIX: Final = struct.Struct("<8sHHIQ")
_DIGEST_SIZE: Final = 32
_TABLE_START: Final = _PREFIX.size + _DIGEST_SIZE
_ENTRY: Final = struct.Struct("<12sIQQ")
_ASSERTIONS: Final = "assertions"
_ItemFormat = Literal["B", "H", "I", "Q"]
_FORMATS: Final[dict[str, _ItemFormat]] = {
    "bitmap": "B",
    "offsets": "I",
    "suffixes": "H",
    "exact_ids": "H",
    "run_starts": "I",
    "run_stops": "I",
    "run_ids": "H",
    "others": "Q",
    "other_ids": "H",
}
_MAX_SECTIONS: Final = 64


class _Entry(NamedTuple):
    name: str
    item_size: int
    offset: int
    size: int


def rfc3339(when: float) -> str:
    """Epoch seconds as "2026-01-31T12:00:00Z"."""
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def encode(contents: Contents, generation: int, when: float, agent_version: str) -> list[bytes | memoryview]:
    """The file of a list as chunks to be written in order. The same contents give the same content digest.

    Raises ConfigError when its assertions are more text than a reader takes.
    """
    assertions = _assertions_json(contents.assertions)
    if len(assertions) > MAX_JSON:  # the manifest repeats their sources, and is shorter
        raise ConfigError("", f"the assertions are {len(assertions) >> 20} MiB of text, and may be {MAX_JSON >> 20}")
    payloads: list[tuple[str, int, bytes | memoryview]] = [(_ASSERTIONS, 1, assertions)]
    for name, section in zip(DnoSections._fields, contents.sections, strict=True):
        payloads.append((name, section.itemsize, _little_endian(section)))
    # The manifest tells where the content starts, by its size, and the content's digest goes into the manifest: its
    # size does not depend on which digest it is.
    manifest = _manifest_json(contents, generation, when, agent_version, "0" * 64)
    head_size = _align(_TABLE_START + _ENTRY.size * len(payloads) + len(manifest))
    entries, file_size = _lay_out(payloads, head_size)
    content = list(_content(payloads, entries))
    digest = hashlib.sha256()
    for chunk in content:
        digest.update(chunk)
    manifest = _manifest_json(contents, generation, when, agent_version, digest.hexdigest())
    prefix = _PREFIX.pack(MAGIC, FORMAT_VERSION, len(entries), head_size, file_size)
    table = b"".join(_ENTRY.pack(e.name.encode(), e.item_size, e.offset, e.size) for e in entries)
    rest = (table + manifest).ljust(head_size - _TABLE_START, b"\0")
    return [prefix, hashlib.sha256(prefix + rest).digest(), rest, *content]


def _lay_out(payloads: Sequence[tuple[str, int, bytes | memoryview]], start: int) -> tuple[list[_Entry], int]:
    """Where each section lies, and the size of the file."""
    entries, position = [], start
    for name, item_size, payload in payloads:
        size = memoryview(payload).nbytes
        entries.append(_Entry(name, item_size, position, size))
        position = _align(position + size)
    return entries, position


def _content(
    payloads: Sequence[tuple[str, int, bytes | memoryview]], entries: Sequence[_Entry]
) -> Iterator[bytes | memoryview]:
    """The sections and the zeros between them."""
    for (_, _, payload), entry in zip(payloads, entries, strict=True):
        yield payload
        yield bytes(_align(entry.offset + entry.size) - entry.offset - entry.size)


def _align(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _little_endian(section: memoryview) -> memoryview:
    if sys.byteorder == "little" or section.itemsize == 1:
        return section.cast("B") if section.nbytes else memoryview(b"")
    swapped = array(section.format, section)
    swapped.byteswap()
    return memoryview(swapped).cast("B")


def _assertions_json(assertions: Sequence[Assertion]) -> bytes:
    return json.dumps([list(assertion) for assertion in assertions], ensure_ascii=False).encode()


def _manifest_json(contents: Contents, generation: int, when: float, agent_version: str, digest: str) -> bytes:
    expiries = [assertion.expires_at for assertion in contents.assertions]
    dated = [expiry for expiry in expiries if expiry is not None]
    return json.dumps(
        {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "generation": generation,
            "created_at": rfc3339(when),
            "sha256": digest,
            "counts": contents.counts(),
            "sources": sorted({assertion.source for assertion in contents.assertions}),
            "first_expiry": rfc3339(min(dated)) if dated else None,
            "not_after": rfc3339(max(dated)) if dated and None not in expiries else None,
            "agent_version": agent_version,
        },
        ensure_ascii=False,
        indent=1,
    ).encode()


def read_list(memory: memoryview, name: str) -> DnoList:
    """The list in a file's memory, after every check. Raises ConfigError naming the file and what is wrong with it.

    The list stands on `memory` and keeps it: nothing is copied (on a big-endian machine, everything is).
    """
    try:
        return _read(memory)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ConfigError(name, f"not a usable do-not-originate list: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if not isinstance(error, ValueError) or isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return f"its description cannot be read ({type(error).__name__}: {error})"
    return str(error)


def _read(memory: memoryview) -> DnoList:
    entries, manifest_bytes, head_size = _read_head(memory)
    fields = json.loads(manifest_bytes)
    if not isinstance(fields, dict) or fields["kind"] != KIND:
        raise ValueError("its manifest is of another kind of file")
    if hashlib.sha256(memory[head_size:]).hexdigest() != fields["sha256"]:
        raise ValueError("its content does not have the checksum that its manifest states")
    parts = {entry.name: memory[entry.offset : entry.offset + entry.size] for entry in entries}
    if len(parts[_ASSERTIONS]) > MAX_JSON:
        raise ValueError(f"more than {MAX_JSON >> 20} MiB of assertions")
    assertions = tuple(map(_assertion, json.loads(bytes(parts[_ASSERTIONS]))))
    sections = DnoSections(*(_native(parts[name], _FORMATS[name]) for name in DnoSections._fields))
    return DnoList(sections, assertions, _manifest(fields))


def _read_head(memory: memoryview) -> tuple[list[_Entry], bytes, int]:
    """The section table, the manifest and the size of the head, after the head's own checks."""
    if len(memory) < _TABLE_START:
        raise ValueError(f"it has {len(memory)} bytes, and not even a head" if len(memory) else "it is empty")
    magic, version, count, head_size, file_size = _PREFIX.unpack_from(memory)
    if magic != MAGIC:
        raise ValueError("it does not start like one")
    if version != FORMAT_VERSION:
        raise ValueError(f"its format is version {version}, this program reads version {FORMAT_VERSION}")
    if file_size != len(memory):
        raise ValueError(f"it has {len(memory)} bytes, and should have {file_size}")
    table_end = _TABLE_START + count * _ENTRY.size
    if count > _MAX_SECTIONS or head_size % ALIGNMENT or not table_end <= head_size <= min(file_size, MAX_JSON):
        raise ValueError("its head has impossible sizes")
    if hashlib.sha256(bytes(memory[: _PREFIX.size]) + bytes(memory[_TABLE_START:head_size])).digest() != bytes(
        memory[_PREFIX.size : _TABLE_START]
    ):
        raise ValueError("its head does not have the checksum that it states")
    entries = [_read_entry(memory, at, head_size) for at in range(_TABLE_START, table_end, _ENTRY.size)]
    if {entry.name for entry in entries} != {_ASSERTIONS, *_FORMATS}:
        raise ValueError("it has other sections than it should")
    return entries, bytes(memory[table_end:head_size]).rstrip(b"\0"), head_size


def _read_entry(memory: memoryview, at: int, head_size: int) -> _Entry:
    raw_name, item_size, offset, size = _ENTRY.unpack_from(memory, at)
    name = raw_name.rstrip(b"\0").decode("ascii")
    expected = struct.calcsize("=" + _FORMATS.get(name, "B"))
    if item_size != expected or size % expected or offset % ALIGNMENT or not head_size <= offset <= len(memory) - size:
        raise ValueError(f"its section {name} lies outside it, or is no array of such items")
    return _Entry(name, item_size, offset, size)


def _native(part: memoryview, item_format: _ItemFormat) -> memoryview:
    """A little-endian section as an array in this machine's byte order."""
    values = part.cast(item_format)
    if sys.byteorder == "little" or item_format == "B":
        return values
    swapped = array(item_format, values)
    swapped.byteswap()
    return memoryview(swapped).toreadonly()


def _time(value: object) -> float | None:
    if value is not None and not isinstance(value, (int, float)):
        raise TypeError("a time is no number")
    return value


def _optional_text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("an expiry is no text")
    return value


def _assertion(fields: Sequence[Any]) -> Assertion:
    category, source, asserted_by, verified_at, expires_at = fields
    return Assertion(DnoCategory(category), str(source), str(asserted_by), _time(verified_at), _time(expires_at))


def _manifest(fields: Mapping[str, Any]) -> Manifest:
    return Manifest(
        generation=int(fields["generation"]),
        created_at=str(fields["created_at"]),
        sha256=str(fields["sha256"]),
        counts={str(name): int(count) for name, count in dict(fields["counts"]).items()},
        sources=tuple(map(str, fields["sources"])),
        first_expiry=_optional_text(fields["first_expiry"]),
        not_after=_optional_text(fields["not_after"]),
        agent_version=str(fields["agent_version"]),
    )
