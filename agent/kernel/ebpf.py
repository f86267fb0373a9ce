"""bpf(2): maps, programs and what holds them at an interface. Knows the system call; must not know what programs do.

Everything is held by descriptors of this process: when they close, by whatever end of it, the kernel takes the program
from its interface and forgets the maps. Nothing is pinned, so nothing can be left behind.
"""

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Self

from agent.kernel.capabilities import BPF, NET_ADMIN, PERFMON, has, missing
from agent.kernel.ebpf_code import NATIVE, Code

_MACHINE: Final = os.uname().machine
_SYSCALL: Final = {"x86_64": 321, "aarch64": 280}.get(_MACHINE) if NATIVE else None
_libc: Final = ctypes.CDLL(None, use_errno=True)

# enum bpf_cmd
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _PROG_LOAD = range(6)
_TEST_RUN, _PROG_NEXT_ID, _PROG_BY_ID, _MAP_BY_ID, _INFO = 10, 11, 13, 14, 15
_LINK_CREATE: Final = 28

_TO_KEY: Final = 16  # bytes of the attributes of a map's element, as far as its key

_NO_PREALLOC, _MMAPABLE = 1, 1 << 10
_GENERIC: Final = 2  # XDP_FLAGS_SKB_MODE

NAME_MAX: Final = 15
"""BPF_OBJ_NAME_LEN without the final NUL."""

LOG_BYTES: Final = 1 << 20
"""For what the verifier says; a program of ours makes it say a tenth of that."""

LOG_SHOWN: Final = 1200
"""Bytes of the end of that, where the reason stands."""

LICENSE: Final = b"Apache-2.0\0"
"""No helper that we call is for GPL programs only."""


_NO_COMPARISON: Final = "pointer comparison prohibited"
_WITHOUT_PERFMON: Final = (
    f"this kernel lets a program of eBPF look into packets only with {PERFMON}, too, as those before 6.1 do"
)
"""The capability that reads the kernel's memory: what is not to have it goes without the program."""


class MapKind(Enum):
    """The kernel's number, and the flags that we make it with."""

    HASH = (1, _NO_PREALLOC)
    SHARED = (2, _MMAPABLE)  # an array of one value, which we have in our memory, too
    COUNTERS = (6, 0)  # the same for each processor
    RECENT = (9, 0)  # a hash that forgets what was not used for longest when it is full
    PREFIXES = (11, _NO_PREALLOC)  # the longest prefix that covers an address


class Attach(Enum):
    """Where a program sees packets: the type of program, of attachment, whether that is told at loading, and the first
    Linux that has it. Both are links, which go with the process that made them."""

    TCX = ("tcx", 3, 46, False, "6.6")  # behind packet sockets, before everything else
    XDP = ("generic XDP", 6, 37, True, "5.9")  # before packet sockets

    @property
    def title(self) -> str:
        """What people call it."""
        return self.value[0]

    @property
    def since(self) -> str:
        """The first version of Linux that has it."""
        return self.value[4]


class VerifierError(OSError):
    """The kernel does not take a program. `log` is all that its verifier said; the error's words have its end, and the
    first line of them the reason."""

    def __init__(self, code: int, what: str, log: str) -> None:
        lines = [line for line in log.splitlines() if line and not line.startswith("processed ")]
        reason = f" ({lines[-1]}); the verifier's last words:\n{log.strip()[-LOG_SHOWN:]}" if lines else ""
        super().__init__(code, f"{what}: {os.strerror(code)}{reason}")
        self.log = log


def supported() -> bool:
    """Whether we know this machine's system call and its byte order."""
    return _SYSCALL is not None


def _bpf(command: int, what: str, attributes: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """Raises OSError that says what it was for."""
    if _SYSCALL is None:
        raise OSError(errno.ENOTSUP, f"{what}: eBPF is not made for {_MACHINE} here")
    if isinstance(attributes, bytes):
        attributes = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(_libc.syscall(_SYSCALL, command, attributes, len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        if code == errno.EPERM:
            raise _refused(what)
        if code == errno.ENOSYS:
            raise OSError(code, f"{what}: the kernel was built without bpf(2) (CONFIG_BPF_SYSCALL)")
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _refused(what: str) -> PermissionError:
    for capability in (BPF, NET_ADMIN):
        if not has(capability):
            return missing(capability, what)
    return PermissionError(errno.EPERM, f"{what}: the kernel forbids it (its lockdown, or a filter of system calls)")


def _address(buffer: "ctypes.Array[ctypes.c_char]") -> int:
    return ctypes.addressof(buffer)


# ---- maps ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MapSpec:
    """What a map is to be; sizes in bytes."""

    name: str
    kind: MapKind
    key: int
    value: int
    entries: int


class Map:
    """A map in the kernel. Not for two threads at once: it has one buffer for each direction."""

    def __init__(self, descriptor: int, key: int, value: int, name: str = "", *, each_processor: bool = False) -> None:
        self.descriptor = descriptor
        self._name = name
        self._each = each_processor
        self._width = value * (possible_processors() if each_processor else 1)
        self._value_size = value
        self._key = ctypes.create_string_buffer(key)
        self._next = ctypes.create_string_buffer(key)
        self._value = ctypes.create_string_buffer(self._width)
        self._attributes = struct.pack("=I4xQQQ", descriptor, _address(self._key), _address(self._value), 0)

    @classmethod
    def create(cls, spec: MapSpec) -> Self:
        """Raises PermissionError naming the capability, OSError."""
        if len(spec.name) > NAME_MAX:
            raise ValueError(f"{spec.name!r} is longer than {NAME_MAX}")
        kind, flags = spec.kind.value
        attributes = struct.pack(
            "=7I16s", kind, spec.key, spec.value, spec.entries, flags, 0, 0, spec.name.encode("ascii")
        )
        descriptor = _bpf(_MAP_CREATE, "make a map of eBPF", attributes)
        return cls(descriptor, spec.key, spec.value, spec.name, each_processor=spec.kind is MapKind.COUNTERS)

    def set(self, key: bytes, value: bytes) -> None:
        """Add or replace. Raises OSError with E2BIG or ENOSPC if it is full."""
        self._key.raw, self._value.raw = key, value.ljust(self._width, b"\0")
        _bpf(_UPDATE, f"write map {self._name}", self._attributes)

    def get(self, key: bytes) -> bytes | None:
        """The value; of counters, those of all processors in a row. None: there is none."""
        self._key.raw = key
        try:
            _bpf(_LOOKUP, f"read map {self._name}", self._attributes)
        except FileNotFoundError:
            return None
        return self._value.raw

    def delete(self, key: bytes) -> None:
        """Nothing happens if it is not there."""
        self._key.raw = key
        try:
            _bpf(_DELETE, f"write map {self._name}", self._attributes[:_TO_KEY])
        except FileNotFoundError:
            return

    def items(self, most: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values, at most so many: packets may change the map meanwhile, and such a walk could go on."""
        key: bytes | None = None
        for _ in range(most):
            if key is not None:
                self._key.raw = key
            begin = 0 if key is None else _address(self._key)
            attributes = struct.pack("=I4xQQQ", self.descriptor, begin, _address(self._next), 0)
            try:
                _bpf(_NEXT_KEY, f"read map {self._name}", attributes)
            except FileNotFoundError:
                return
            key = self._next.raw
            value = self.get(key)
            if value is not None:
                yield key, value

    def sums(self) -> tuple[int, ...]:
        """Of counters: the numbers of 64 bits of the only value, over all processors."""
        raw = self.get(bytes(4)) or b""
        columns = self._value_size // 8
        numbers = struct.unpack(f"={len(raw) // 8}Q", raw)
        return tuple(sum(numbers[column::columns]) for column in range(columns))

    def mapped(self) -> mmap.mmap:
        """A shared one in our memory: to write it takes no system call."""
        return mmap.mmap(self.descriptor, mmap.PAGESIZE)

    def close(self) -> None:
        """Let go of it; the kernel keeps it for as long as a program has it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def possible_processors() -> int:
    """How many values a map of counters has: what the kernel could ever run on, not what is there."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:  # noqa: PTH123
        ranges = file.read().strip().split(",")
    return max(int(one.rpartition("-")[2]) for one in ranges) + 1


# ---- programs ------------------------------------------------------------------------------------------------------


@dataclass
class Program:
    """A program that the verifier has taken."""

    descriptor: int
    attach: Attach

    @classmethod
    def load(cls, code: Code, maps: dict[str, Map], attach: Attach, name: str) -> Self:
        """Raises VerifierError, PermissionError naming the capability, OSError."""
        try:
            raw = code.assemble({name: one.descriptor for name, one in maps.items()})
        except ValueError as error:  # so many emergency numbers
            raise OSError(errno.E2BIG, f"no program of eBPF can say this: {error}") from None
        instructions = ctypes.create_string_buffer(raw, len(raw))
        license_ = ctypes.create_string_buffer(LICENSE, len(LICENSE))
        _, kind, attached, told, _ = attach.value

        def attempt(log: "ctypes.Array[ctypes.c_char] | None") -> int:
            attributes = struct.pack(
                "=IIQQIIQII16sII",
                kind,
                len(raw) // 8,
                _address(instructions),
                _address(license_),
                0 if log is None else 1,
                0 if log is None else len(log),
                0 if log is None else _address(log),
                0,
                0,
                name.encode("ascii"),
                0,
                attached if told else 0,
            )
            return _bpf(_PROG_LOAD, "load a program of eBPF", attributes)

        try:
            return cls(attempt(None), attach)
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EINVAL}:
                raise
            code_, first = error.errno, error
        log = ctypes.create_string_buffer(LOG_BYTES)  # asked only now: to write it costs more than to verify
        try:
            return cls(attempt(log), attach)
        except OSError:
            said = log.value.decode(errors="replace")
            if _NO_COMPARISON in said and not has(PERFMON):
                raise PermissionError(errno.EPERM, _WITHOUT_PERFMON) from first
            raise VerifierError(code_ or errno.EINVAL, "load a program of eBPF", said) from first

    def attach_to(self, interface: int) -> "Link":
        """Let it see what comes in by the interface of this index. Raises OSError: EBUSY where somebody else has an XDP
        program, EINVAL where the kernel has no such link."""
        flags = _GENERIC if self.attach is Attach.XDP else 0
        attributes = struct.pack("=IIII48x", self.descriptor, interface, self.attach.value[2], flags)
        what = f"attach a program by {self.attach.title}"
        return Link(_bpf(_LINK_CREATE, what, attributes))

    def run(self, packet: bytes) -> int:
        """What it returns for a packet that begins with an Ethernet header of at least 14 bytes. For tests."""
        data = ctypes.create_string_buffer(packet, len(packet))
        attributes = ctypes.create_string_buffer(
            struct.pack("=IIIIQQII32x", self.descriptor, 0, len(packet), 0, _address(data), 0, 1, 0), 80
        )
        _bpf(_TEST_RUN, "run a program of eBPF", attributes)
        return int(struct.unpack_from("=i", attributes, 4)[0])

    def close(self) -> None:
        """Let go of it; the kernel keeps it for as long as it is attached."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@dataclass
class Link:
    """A program at an interface, for as long as this is open."""

    descriptor: int

    def interface(self) -> int:
        """The index of its interface; 0: that is gone."""
        info = object_info(self.descriptor, 32)
        return int(struct.unpack_from("=I", info, 16)[0])

    def close(self) -> None:
        """Take the program from its interface."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


# ---- those of others -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A program of any process, how it is attached, and its maps by name. `close` them."""

    number: int
    attach: Attach
    maps: dict[str, Map] = field(default_factory=dict)

    def close(self) -> None:
        """Let go of the maps."""
        for one in self.maps.values():
            one.close()


def object_info(descriptor: int, size: int) -> bytes:
    """struct bpf_map_info, bpf_prog_info or bpf_link_info, as much as was asked for and the kernel knows."""
    out = ctypes.create_string_buffer(size)
    _bpf(_INFO, "ask for an object of eBPF", struct.pack("=IIQ", descriptor, size, _address(out)))
    return out.raw


_PROG_INFO, _PROG_MAP_COUNT, _PROG_MAPS, _PROG_NAME = 80, 52, 56, 64  # struct bpf_prog_info
_MAP_INFO, _MAP_NAME = 40, 24  # struct bpf_map_info
_MAPS_MAX: Final = 16
"""Maps of one program; ours have six."""


def programs(name: str) -> Iterator[Found]:
    """Programs of this name that are loaded now. Takes CAP_SYS_ADMIN. Raises OSError."""
    number = 0
    while True:
        try:
            number = _next_program(number)
        except FileNotFoundError:
            return
        try:
            descriptor = _bpf(_PROG_BY_ID, "look at a program of eBPF", struct.pack("=III", number, 0, 0))
        except FileNotFoundError:  # gone by now
            continue
        try:
            found = _found(number, descriptor, name)
        finally:
            os.close(descriptor)
        if found is not None:
            yield found


def _next_program(number: int) -> int:
    attributes = ctypes.create_string_buffer(struct.pack("=III", number, 0, 0), 12)
    _bpf(_PROG_NEXT_ID, "list the programs of eBPF", attributes)
    return int(struct.unpack_from("=I", attributes, 4)[0])


def _found(number: int, program: int, name: str) -> Found | None:
    """None: it has another name, or is of a type that ours are not."""
    numbers = (ctypes.c_uint32 * _MAPS_MAX)()
    asked = ctypes.create_string_buffer(_PROG_INFO)
    struct.pack_into("=I", asked, _PROG_MAP_COUNT, _MAPS_MAX)
    struct.pack_into("=Q", asked, _PROG_MAPS, ctypes.addressof(numbers))
    request = struct.pack("=IIQ", program, _PROG_INFO, _address(asked))
    _bpf(_INFO, "look at a program of eBPF", request)
    attach = next((one for one in Attach if one.value[1] == struct.unpack_from("=I", asked)[0]), None)
    if attach is None or _text(asked.raw, _PROG_NAME) != name:
        return None
    found = Found(number, attach)
    for one in numbers[: struct.unpack_from("=I", asked, _PROG_MAP_COUNT)[0]]:
        descriptor = _bpf(_MAP_BY_ID, "look at a map of eBPF", struct.pack("=III", one, 0, 0))
        info = object_info(descriptor, _MAP_INFO)
        kind, key, value = struct.unpack_from("=I4xII", info)
        called = _text(info, _MAP_NAME)
        found.maps[called] = Map(descriptor, key, value, called, each_processor=kind == MapKind.COUNTERS.value[0])
    return found


def _text(raw: bytes, offset: int) -> str:
    return raw[offset : offset + NAME_MAX + 1].split(b"\0", 1)[0].decode(errors="replace")
