"""Carries what a screening counted into a new one, through the bytes of a file, as a restart does."""

import hashlib

from agent.hashing import SCHEME, get_key
from agent.restart.snapshot import END_MARK, Clocks, Head, Section, front, read, section
from agent.restart.state import Restored, restore, taking
from agent.screening import Screening

SECRET = b"\x07" * 32
BOOT = "a"
WALL = 1_800_000_000.0


def head_of(screening: Screening, now: float, *, clean: bool = True, wall: float = WALL) -> Head:
    return Head(SCHEME, get_key().hex(), screening.secret.hex(), screening.policy.generation, BOOT, now, wall, clean)


def file_of(head: Head, sections: list[Section]) -> bytes:
    parts = [front(head), *(part for one in sections for part in (section(one), bytes(one.data))), END_MARK]
    return b"".join([*parts, hashlib.sha256(b"".join(parts)).digest()])


def snapshot(screening: Screening, now: float, *, clean: bool = True) -> bytes:
    sections = [take() for take in taking(screening, lambda: now)]
    return file_of(head_of(screening, now, clean=clean), sections)


def restored(screening: Screening, data: bytes, now: float, wall: float = WALL, boot: str = BOOT) -> Restored:
    head, sections = read(data)
    return restore(screening, head, sections, Clocks(boot, now, wall))
