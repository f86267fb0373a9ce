"""Opening a spool again: what a crash left is cut to what is whole, what is damaged is set aside and salvaged.

Blocks, and raises OSError; runs on the spool's own thread only. What it finds wrong it reports and repairs; nothing
that lies on the disk is fatal.
"""

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import randbits
from typing import Final

from agent.files import replace_file
from agent.records.manifest import DAMAGED, DroppedRange, Manifest
from agent.records.naming import CORRUPT, MANIFEST, SegmentName
from agent.records.segment import (
    SEGMENT_HEADER,
    Batch,
    Damage,
    SegmentHeader,
    read_batches,
    read_segment_header,
)
from agent.records.spool_files import FILE_MODE, Stored, cut, segments_in, sync_directory

# How many damaged segments are kept to be looked at; a failing disk makes more of them than anybody reads.
CORRUPT_MAX: Final = 16


@dataclass(slots=True)
class Recovered:
    """What was found on disk."""

    manifest: Manifest
    segments: list[Stored] = field(default_factory=list)
    # Sealed segments of earlier runs whose content nobody has looked at yet.
    unread: list[Stored] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    set_aside: int = 0


def recover(directory: Path, now: float, when: float) -> Recovered:
    """Take stock of a spool's directory and repair it; reads whole only what a crash can have left half written.

    The manifest is given back, not written. Raises OSError when the directory or its manifest cannot be read.
    """
    for stale in directory.glob(".*.tmp"):  # what a crash in the middle of `replace_file` leaves
        with contextlib.suppress(OSError):
            stale.unlink()
    found = Recovered(_manifest(directory))
    listed = segments_in(directory)
    if found.manifest.epoch == 0:
        found.manifest = replace(found.manifest, epoch=_epoch_of(listed))
    for path, name in listed:
        try:
            _take(path, name, found, now, when)
        except OSError as error:  # this one file; without room or on a bad sector it stays as it is
            found.problems.append(f"{path.name}: {error.strerror or error}")
            size = _size(path)
            found.manifest = replace(found.manifest, next=max(found.manifest.next, name.first + size))
            found.segments.append(Stored(path, name, size, now))
    used = max((stored.name.last for stored in found.segments), default=0)
    found.manifest = replace(found.manifest, next=max(found.manifest.next, used + 1))
    return found


def _take(path: Path, name: SegmentName, found: Recovered, now: float, when: float) -> None:
    header = _header(path)
    born = now - (max(0.0, when - header.created) if header is not None else 0.0)
    epoch = found.manifest.epoch if header is None else header.epoch
    if name.sealed and found.manifest.covers(epoch, name.stream, name.first, name.last):
        path.unlink(missing_ok=True)  # it was being dropped when the process died
    elif name.sealed and header is not None:
        stored = Stored(path, name, path.stat().st_size, born)
        found.segments.append(stored)
        found.unread.append(stored)
    else:
        mended = examine(Stored(path, name, 0, born), found, when)
        if mended is not None:
            found.segments.append(mended)


def examine(stored: Stored, found: Recovered, when: float) -> Stored | None:
    """Read a segment whole; cut or set aside what is not sound. What is left of it, None if nothing is.

    Raises OSError.
    """
    data = stored.path.read_bytes()
    header: SegmentHeader | None = None
    damage: list[Damage] = []
    try:
        header = read_segment_header(data)
    except ValueError as error:
        if not (len(data) < SEGMENT_HEADER or not any(data)) or stored.name.sealed:
            damage.append(Damage(0, SEGMENT_HEADER, str(error)))
    parts = list(read_batches(data))
    batches = [part for part in parts if isinstance(part, Batch)]
    # A sealed segment was whole once: there is no ordinary reason for a torn end in it.
    damage += [part for part in parts if isinstance(part, Damage) and (stored.name.sealed or not part.torn)]
    if damage:
        return _set_aside(stored, header, batches, damage, found, when)
    if not batches:
        stored.path.unlink(missing_ok=True)
        return None
    if stored.name.sealed:
        return stored
    end = batches[-1].end
    cut(stored.path, end)
    name = _name(stored.name, batches)
    path = stored.path.rename(stored.path.with_name(str(name)))
    sync_directory(path.parent)
    return Stored(path, name, end, stored.born)


def _set_aside(
    stored: Stored,
    header: SegmentHeader | None,
    batches: list[Batch],
    damage: list[Damage],
    found: Recovered,
    when: float,
) -> Stored | None:
    """Keep the damaged file under another name, and the whole batches of it in a segment of their own."""
    path, directory = stored.path, stored.path.parent
    for part in damage:
        found.problems.append(f"{path.name}: {part}")
        found.manifest = found.manifest.with_dropped(_loss(stored.name, part, batches, found.manifest.epoch, when))
    found.set_aside += 1
    data = path.read_bytes()
    aside = path.with_name(path.name + CORRUPT)
    aside.unlink(missing_ok=True)
    write_manifest(directory, found.manifest)
    if not batches:
        path.rename(aside)
        kept = None
    else:
        if header is None:
            header = SegmentHeader(stored.name.stream, found.manifest.epoch, batches[0].first, batches[0].written)
        name = _name(stored.name, batches)
        aside.hardlink_to(path)
        chunks = [replace(header, first=batches[0].first).encode(), *(data[b.offset : b.end] for b in batches)]
        target = directory / str(name)
        replace_file(target, chunks)
        target.chmod(FILE_MODE)
        if target != path:
            path.unlink(missing_ok=True)
        kept = Stored(target, name, sum(map(len, chunks)), stored.born)
    sync_directory(directory)
    _forget_old_corrupt(directory)
    return kept


def _name(name: SegmentName, batches: list[Batch]) -> SegmentName:
    return replace(
        name,
        first=batches[0].first,
        last=max(batch.last for batch in batches),
        count=sum(batch.count for batch in batches),
    )


def _loss(name: SegmentName, damage: Damage, batches: list[Batch], epoch: int, when: float) -> DroppedRange:
    """Which sequences a damage took: what its header still says, else all between its sound neighbours."""
    if damage.count and damage.first >= name.first:
        first, last = damage.first, damage.first + damage.count - 1
    else:
        first = max((b.last + 1 for b in batches if b.end <= damage.offset), default=name.first)
        # A record takes more than a byte: no more of them can have been in what nothing follows.
        least = name.last if name.sealed else first + max(0, damage.end - damage.offset)
        last = max(first, min((b.first - 1 for b in batches if b.offset >= damage.end), default=least))
    return DroppedRange(epoch, first, last, name.stream.word, damage.count, DAMAGED, when)


def _manifest(directory: Path) -> Manifest:
    """The manifest on disk; an empty one, epoch 0, where there is none that can be read."""
    try:
        return Manifest.decode((directory / MANIFEST).read_bytes())
    except FileNotFoundError:
        pass
    except ValueError:
        with contextlib.suppress(OSError):
            (directory / MANIFEST).replace(directory / (MANIFEST + CORRUPT))
    return Manifest(0)


def _epoch_of(listed: list[tuple[Path, SegmentName]]) -> int:
    """The epoch of the newest segment that can be read, else a new one, never 0."""
    for path, _ in reversed(listed):
        if (header := _header(path)) is not None:
            return header.epoch
    return randbits(64) or 1


def _header(path: Path) -> SegmentHeader | None:
    with path.open("rb") as file:
        try:
            return read_segment_header(file.read(SEGMENT_HEADER))
        except ValueError:
            return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest. Raises OSError, and then the old one stands."""
    replace_file(directory / MANIFEST, [manifest.encode()])


def set_aside_in(directory: Path) -> list[tuple[Path, int]]:
    """The damaged files of a directory with their sizes, oldest first. Raises OSError."""
    found = [(path, path.stat()) for path in directory.glob("*" + CORRUPT)]
    found.sort(key=lambda item: item[1].st_mtime)
    return [(path, status.st_size) for path, status in found]


def _forget_old_corrupt(directory: Path) -> None:
    for path, _ in set_aside_in(directory)[:-CORRUPT_MAX]:
        with contextlib.suppress(OSError):
            path.unlink()
