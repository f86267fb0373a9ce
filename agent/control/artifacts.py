"""Lists on their way from the controller: what may be taken, what is there already, and one download. No stream.

A download continues where it was cut, takes a delta where the version before is there, and is believed by nothing but
the SHA-256 of its result; chunks have checksums so that a fault is found at once. Files are written here (it blocks),
streams are opened elsewhere.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.checksums import crc32c
from agent.control.credentials import make_directory, own_as_directory
from agent.control.messages import Chunk, FieldViolation, Manifest
from agent.deltas import DeltaError, apply_delta
from agent.files import map_file, replace_file, unmap
from agent.numbers.listfile import FORMAT_VERSION

DNO: Final = "dno"
TRUST_LIST: Final = "trust-list"
CRL: Final = "crl"
KINDS: Final = (DNO, TRUST_LIST, CRL)

SIZE_MAX: Final = 1 << 30
"""Bytes of one list. The largest commercial ones have 20 MB."""

MANIFESTS_MAX: Final = 64
"""Lists of one policy."""

MARGIN: Final = 64 << 20
"""Bytes of the disk that a download leaves to others."""

SWEEP_MAX: Final = 1000
"""Files that go at a time; there are some tens at most, unless somebody else writes here."""

CHUNK_MAX: Final = 1 << 20
PIECE: Final = 1 << 20

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_FILE: Final = re.compile(r"([0-9a-f]{64})(\.part|\.from-[0-9a-f]{64})?")


# --- what may be taken


def faults_of(
    manifests: Iterable[Manifest], keys: Mapping[str, bytes], floors: Mapping[tuple[str, str], int]
) -> list[FieldViolation]:
    """Everything for which these lists are refused. `floors` are the generations below which none is taken."""
    found: list[FieldViolation] = []
    seen: set[tuple[str, str]] = set()
    for n, manifest in enumerate(manifests):
        fault = _fault_of(manifest, keys, floors)
        if n >= MANIFESTS_MAX:
            return [*found, FieldViolation("artifacts", f"are more than {MANIFESTS_MAX}")]
        if not fault and (manifest.kind, manifest.name) in seen:
            fault = "name", "comes twice"
        seen.add((manifest.kind, manifest.name))
        if fault:
            found.append(FieldViolation(f"artifacts[{n}].{fault[0]}", fault[1]))
    return found


def _fault_of(
    manifest: Manifest, keys: Mapping[str, bytes], floors: Mapping[tuple[str, str], int]
) -> tuple[str, str] | None:
    """Field and reason."""
    if manifest.kind not in KINDS:
        return "kind", f"is not known here; known: {', '.join(KINDS)}"
    if not _NAME.fullmatch(manifest.name):
        return "name", "must be letters, digits, '.', '_' and '-', 64 at most"
    if len(manifest.sha256) != hashlib.sha256().digest_size:
        return "sha256", "must have 32 bytes"
    if not 0 < manifest.size <= SIZE_MAX:
        return "size", f"must be from 1 to {SIZE_MAX}"
    if manifest.kind == DNO and manifest.format_version != FORMAT_VERSION:
        return "format_version", f"is {manifest.format_version}; this agent reads {FORMAT_VERSION}"
    floor = floors.get((manifest.kind, manifest.name), 1)
    if manifest.generation < floor:
        return "generation", f"is {manifest.generation}, and this agent has had {floor} already"
    key = keys.get(manifest.key_id)
    if key is None:
        return "key_id", "names no key that this agent knows"
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(manifest.signature, manifest.signed)
    except (InvalidSignature, ValueError):
        return "signature", f"is not of the key {manifest.key_id}"
    return None


# --- files


class ArtifactFiles:
    """Lists by their SHA-256, and what has come of those that are on their way. Blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, sha256: bytes) -> Path:
        """Where a list is, or would be."""
        return self._directory / sha256.hex()

    def intact(self, manifest: Manifest) -> bool:
        """Whether it is here, every byte of it."""
        path = self.path(manifest.sha256)
        try:
            return path.stat().st_size == manifest.size and sha256_of(path) == manifest.sha256
        except OSError:
            return False

    def vouch(self, manifests: Iterable[Manifest]) -> None:
        """The controller stands for these now: their files say so to whoever asks how old they are. Raises OSError."""
        for manifest in manifests:
            os.utime(self.path(manifest.sha256))

    def begin(self) -> None:
        """Make the directory. Raises OSError."""
        make_directory(self._directory)

    def room(self) -> int:
        """Bytes that may still be written. Raises OSError."""
        status = os.statvfs(self._directory)
        return status.f_bavail * status.f_frsize - MARGIN

    def adopt(self, path: Path, sha256: bytes) -> bool:
        """Make a file that has come the list; False, and the file is gone, if it is not. Raises OSError."""
        if sha256_of(path) != sha256:
            path.unlink()
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        path.replace(self.path(sha256))
        sync_directory(self._directory)
        return True

    def patch(self, base: bytes, delta: Path, manifest: Manifest) -> bool:
        """Make the list of an older one and a delta; False: it does not come out right. Raises OSError."""
        old = map_file(self.path(base))
        made = self._directory / f"{manifest.sha256.hex()}.part"
        changes = map_file(delta)
        try:
            replace_file(made, apply_delta(old, changes, manifest.size), 0o600)
        except DeltaError:
            return False
        finally:
            unmap(changes)
            unmap(old)
            delta.unlink(missing_ok=True)
        return self.adopt(made, manifest.sha256)

    def sweep(self, needed: Iterable[Manifest], published: Iterable[Manifest]) -> int:
        """Let go of lists that nobody needs, of what was left of downloads, and of names that are published no more.

        How many files, SWEEP_MAX at most. Nobody may be fetching meanwhile. Raises OSError.
        """
        names = {manifest.sha256.hex() for manifest in needed}
        links = {f"{manifest.kind}-{manifest.name}" for manifest in published}
        gone = 0
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if gone < SWEEP_MAX and self._is_left_over(entry, names, links):
                    Path(entry.path).unlink(missing_ok=True)
                    gone += 1
        return gone

    def _is_left_over(self, entry: os.DirEntry[str], names: set[str], links: set[str]) -> bool:
        if entry.is_symlink():
            return entry.name.startswith(tuple(f"{kind}-" for kind in KINDS)) and entry.name not in links
        match = _FILE.fullmatch(entry.name)
        if match is None:
            return entry.name.endswith(".tmp")
        # What is whole needs no delta any more; a part of it may be what will mend it.
        was_delta = match[2] is not None and match[2] != ".part"
        return match[1] not in names or (was_delta and (self._directory / match[1]).exists())

    def publish(self, manifests: Iterable[Manifest]) -> None:
        """Have a name that does not change for each list: "dno-industry" and so on, for other parts' settings."""
        for manifest in manifests:
            link = self._directory / f"{manifest.kind}-{manifest.name}"
            if not link.is_symlink() or link.readlink() != Path(manifest.sha256.hex()):
                temporary = link.with_name(f".{link.name}.tmp")
                temporary.unlink(missing_ok=True)
                temporary.symlink_to(manifest.sha256.hex())
                temporary.replace(link)


# --- one download


class Corrupt(Exception):  # noqa: N818  (it is the chunk that is)
    """What came is not what was sent. Asking again from the same place may help."""


class Unfit(Exception):  # noqa: N818
    """What came does not go on from what is here: begin anew."""


class Download:
    """One list, or a delta to it, from wherever it was cut. `base` is the SHA-256 of a version that is here, or b""."""

    def __init__(self, files: ArtifactFiles, manifest: Manifest, base: bytes) -> None:
        directory = files.path(manifest.sha256).parent
        self.base = base
        self.whole = directory / f"{manifest.sha256.hex()}.part"
        self.delta = directory / f"{manifest.sha256.hex()}.from-{base.hex()}"
        self._manifest = manifest
        self._path = self.delta if base else self.whole
        self._file: IO[bytes] | None = None
        self._total: int | None = None
        self.offset = 0

    def open(self) -> None:
        """Look how far it came before. Raises OSError."""
        self._file = self._path.open("ab")
        own_as_directory(self._path)
        self.offset = self._file.tell()
        if self.offset > self._manifest.size:
            self._restart()

    def take(self, chunk: Chunk) -> None:
        """Write what came. Raises Corrupt, Unfit, OSError."""
        if self._total is None:
            self._first(chunk)
        assert self._file is not None
        assert self._total is not None
        if chunk.offset != self.offset or len(chunk.data) > min(CHUNK_MAX, self._total - self.offset):
            raise Corrupt(f"bytes {chunk.offset} and on came where {self.offset} was next, of {self._total}")
        if crc32c(chunk.data) != chunk.crc32c:
            raise Corrupt(f"the chunk at {chunk.offset} does not have its checksum")
        self._file.write(chunk.data)
        self.offset += len(chunk.data)

    def _first(self, chunk: Chunk) -> None:
        """What is it that comes?"""
        if chunk.delta != bool(self.base):
            if chunk.delta or self.offset:
                self.discard()
                raise Unfit("the controller goes on with something else")
            self.close()  # it has no delta, and begins with the whole
            self.delta.unlink(missing_ok=True)
            self.base, self._path = b"", self.whole
            self._file = self.whole.open("wb")
            own_as_directory(self.whole)
        most = self._manifest.size
        if chunk.total > most or (not self.base and chunk.total != most):
            self.discard()
            raise Unfit(f"the controller has {chunk.total} bytes of it, and the manifest says {most}")
        if self.offset > chunk.total:
            self.discard()
            raise Unfit(f"{self.offset} bytes are here of {chunk.total}")
        self._total = chunk.total

    @property
    def done(self) -> bool:
        """Whether all of it has come."""
        return self._total is not None and self.offset == self._total

    def close(self) -> None:
        """What came stays for the next time. Raises OSError."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def discard(self) -> None:
        """What came goes. Raises OSError."""
        self.close()
        self._path.unlink(missing_ok=True)
        self.offset = 0

    def _restart(self) -> None:
        assert self._file is not None
        self._file.truncate(0)
        self.offset = 0


def sha256_of(path: Path) -> bytes:
    """Of a file's bytes. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.digest()


def sync_directory(directory: Path) -> None:
    """Make names durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
