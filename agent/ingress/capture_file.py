"""Reads capture files: pcap and pcapng, either byte order, plain or gzipped, in constant memory.

Knows files and record formats, through scapy's raw readers, which split a capture into records. They end in
silence at damage and trust the lengths they read, so they get a stream that counts and bounds every read.
Must not know what is inside a packet: that is `layers`.
"""

import gzip
import io
import logging
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from agent.model import ConfigError

MAX_PACKET: Final = 262_144
"""Bytes of one packet; libpcap's MAXIMUM_SNAPLEN. Jumbo and offloaded frames stay below it."""

MAX_BLOCK: Final = 16 << 20
"""Bytes of one pcapng block, libpcap's own bound: name tables and secrets are larger than packets."""

PCAP_MAGIC: Final = {b"\xa1\xb2\xc3\xd4": 6, b"\xd4\xc3\xb2\xa1": 6, b"\xa1\xb2\x3c\x4d": 9, b"\x4d\x3c\xb2\xa1": 9}
"""First four bytes of a pcap file (both byte orders) and the decimal places of its timestamps."""

PCAPNG_MAGIC: Final = b"\x0a\x0d\x0d\x0a"
GZIP_MAGIC: Final = b"\x1f\x8b"
NO_SCAPY: Final = "reading captures needs scapy: pip install 'sbc-edge-agent[replay]'"
LINKTYPE_MASK: Final = 0x03FFFFFF  # the bits above say how long the frame check sequence is
IF_TSOFFSET: Final = 14  # pcapng interface option: seconds to add to every timestamp
IF_SNAPLEN_NONE: Final = 0  # pcapng: the interface cuts nothing


class Packet(NamedTuple):
    """One captured packet.

    `when` is epoch seconds, `wire_length` the bytes that were on the wire (`data` may be fewer), `interface`
    the pcapng interface (0 for pcap), `offset` where the record begins in the (decompressed) file.
    """

    when: float
    linktype: int
    data: bytes
    wire_length: int
    interface: int
    offset: int


class Damage(NamedTuple):
    """Where and why reading stopped before the end. `offset` counts bytes of the (decompressed) file."""

    offset: int
    reason: str

    def __str__(self) -> str:
        return f"{self.reason} at byte {self.offset}"


class _DamagedError(Exception):
    """Raised through scapy, which turns EOFError, OSError and its own errors into a quiet end of file."""


class _CountingStream:
    """What scapy reads from: within a record never less than was asked, nor more than a record may hold."""

    name = "capture"

    def __init__(self, stream: IO[bytes], record_limit: int) -> None:
        self._read = stream.read
        self._record_limit = record_limit
        self.offset = 0
        self.record_start = 0

    def begin_record(self) -> None:
        self.record_start = self.offset

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or b"" where a record could begin and the file ends. Raises _DamagedError."""
        inside = self.offset - self.record_start
        if size < 0 or inside + size > self._record_limit:
            raise _DamagedError(
                f"a record claims {inside + size} bytes, more than {self._record_limit}: the capture is corrupt"
            )
        try:
            data = self._read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise _DamagedError(f"cannot read on ({error})") from error
        if len(data) < size and (data or inside):
            raise _DamagedError(f"the capture is cut off: a record ends after {inside + len(data)} bytes")
        self.offset += len(data)
        return data

    def close(self) -> None:
        """The file belongs to whoever opened it."""


class CaptureFile:
    """One capture file. `packets` reads it once; `damage` then says whether it ended before its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size: int | None = None
        self.damage: Damage | None = None
        self._file: IO[bytes] | None = None

    @property
    def position(self) -> int:
        """Bytes of the file as stored (compressed) that were read so far, out of `size`."""
        return self._file.tell() if self._file is not None and not self._file.closed and self.size else 0

    def packets(self) -> Iterator[Packet]:
        """Every packet that can be read, in file order. Raises ConfigError if there is no capture to read."""
        with self._open() as file:
            self._file = file
            stream, magic = _decompressed(self.path, file)
            counting = _CountingStream(stream, MAX_BLOCK if magic == PCAPNG_MAGIC else MAX_PACKET + 16)
            try:
                yield from self._read(counting, magic)
            except _DamagedError as error:
                self.damage = Damage(counting.record_start, str(error))

    def _open(self) -> IO[bytes]:
        try:
            status = self.path.stat()
            file = None if stat.S_ISDIR(status.st_mode) else self.path.open("rb", buffering=1 << 20)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(str(self.path), reason[0].lower() + reason[1:]) from error
        if file is None:
            raise ConfigError(str(self.path), "is a directory, not a capture file")
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None
        return file

    def _read(self, stream: _CountingStream, magic: bytes) -> Iterator[Packet]:
        readers = _scapy_readers(self.path)
        # Everything scapy may raise on hostile bytes; a truncated file never gets that far.
        scapy_gives_up = (EOFError, struct.error, ValueError, LookupError, OverflowError, readers.error)
        try:
            reader = (readers.pcapng if magic == PCAPNG_MAGIC else readers.pcap)(stream)
        except (_DamagedError, *scapy_gives_up) as error:
            raise ConfigError(str(self.path), "is too short or its file header is damaged") from error
        packets = _pcapng_packets if magic == PCAPNG_MAGIC else _pcap_packets
        try:
            yield from packets(reader, stream, PCAP_MAGIC.get(magic, 0))
        except scapy_gives_up as error:
            if stream.offset != stream.record_start or not isinstance(error, EOFError):
                raise _DamagedError("a record is not what the format allows") from error


def _decompressed(path: Path, file: IO[bytes]) -> tuple[IO[bytes], bytes]:
    """The capture's own bytes, from the first one on, and its magic number. Raises ConfigError."""
    try:
        head = cast("io.BufferedReader", file).peek(4)[:4]
        if not head:
            raise ConfigError(str(path), "is empty")
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if head[:2] == GZIP_MAGIC else file
        magic = cast("io.BufferedReader", stream).peek(4)[:4]
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(str(path), f"cannot be read: {error}") from error
    if magic not in PCAP_MAGIC and magic != PCAPNG_MAGIC:
        raise ConfigError(str(path), "is not a capture file (pcap or pcapng, plain or gzipped)")
    return stream, magic


def _pcap_packets(reader: Any, stream: _CountingStream, places: int) -> Iterator[Packet]:
    linktype = reader.linktype & LINKTYPE_MASK
    unit = 10.0**places
    begin, read = stream.begin_record, reader._read_packet  # noqa: SLF001  (what scapy tells raw callers to use)
    while True:
        begin()
        data, metadata = read(MAX_PACKET)
        when = metadata.sec + metadata.usec / unit
        yield Packet(when, linktype, data, metadata.wirelen, 0, stream.record_start)


def _pcapng_packets(reader: Any, stream: _CountingStream, _places: int) -> Iterator[Packet]:
    read = reader._read_packet  # noqa: SLF001
    when = 0.0
    while True:
        data, metadata = read(MAX_PACKET)
        if metadata.tshigh is not None:  # a simple packet block has no time: it gets its predecessor's
            when = ((metadata.tshigh << 32) + metadata.tslow) / metadata.tsresol + reader.time_offset
        yield Packet(when, metadata.linktype, data, metadata.wirelen, reader.interface, stream.record_start)


class _Readers(NamedTuple):
    pcap: Callable[[_CountingStream], Any]
    pcapng: Callable[[_CountingStream], Any]
    error: type[Exception]


def _scapy_readers(path: Path) -> _Readers:
    """scapy's readers, imported on first use: the daemon never pays for them. Raises ConfigError."""
    for name in ("scapy.loading", "scapy.runtime"):  # it complains there of the machine and of every record
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        from scapy.error import Scapy_Exception  # noqa: PLC0415
        from scapy.utils import RawPcapNgReader, RawPcapReader  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(str(path), NO_SCAPY) from error
    return _Readers(RawPcapReader, _pcapng_reader(RawPcapNgReader), Scapy_Exception)


def _pcapng_reader(base: Any) -> Callable[[_CountingStream], Any]:
    """scapy's pcapng reader with what it leaves out: sections, unlimited interfaces, time offsets, damage."""

    class Reader(base):  # type: ignore[misc]  # the base is only known at run time
        interface = 0
        time_offset = 0

        def _read_block(self, size: int = MAX_PACKET) -> Any:
            self.f.begin_record()
            return super()._read_block(size)

        def _read_block_shb(self) -> None:
            self.interfaces: list[Any] = []  # interface numbers begin again in every section
            super()._read_block_shb()

        def _read_block_idb(self, block: bytes, size: int) -> None:
            super()._read_block_idb(block, size)
            linktype, snaplen, options = self.interfaces[-1]
            offset = self._read_options(block[8:]).get(IF_TSOFFSET, b"")
            options["tsoffset"] = struct.unpack(self.endian + "q", offset)[0] if len(offset) == 8 else 0
            if snaplen == IF_SNAPLEN_NONE:
                snaplen = MAX_PACKET
            self.interfaces[-1] = (linktype, snaplen, options)

        def _check_interface_id(self, intid: int) -> bool:
            if intid >= len(self.interfaces):
                raise _DamagedError(f"a packet of interface {intid}, which the capture does not describe")
            self.interface = intid
            self.time_offset = self.interfaces[intid][2]["tsoffset"]
            return True

    return cast("Callable[[_CountingStream], Any]", Reader)
