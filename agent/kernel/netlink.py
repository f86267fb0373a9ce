"""Netlink to the kernel's netfilter: batches that apply whole or not at all, and dumps. Knows framing and errors.

Must not know what the messages say. The kernel works on a batch while it is being sent, and has its answers in our
buffer when the send returns: nothing here waits for an answer that may never come. An error names the message that
failed, and carries the words of the kernel where it gave any.
"""

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from agent.kernel.capabilities import NET_ADMIN, missing

NETLINK_NETFILTER: Final = 12
SOL_NETLINK: Final = 270
NETLINK_NO_ENOBUFS: Final = 5
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33

# linux/netlink.h, linux/netfilter/nfnetlink.h
HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
NFGEN: Final = struct.Struct("!BBH")  # family, version, resource
NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
REQUEST: Final = 0x1
ACK: Final = 0x4
_DUMP: Final = 0x300
_DUMP_INTERRUPTED: Final = 0x10
_ACK_TLVS: Final = 0x200
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_ERROR_TEXT: Final = 1
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR: Final = struct.Struct("=i")

BUFFER: Final = 4 << 20
"""Bytes that one batch may have: 20,000 set elements are 1 MB."""
_DUMP_PART: Final = 1 << 18  # the kernel fills at most 32 kB at once
_DUMP_SECONDS: Final = 3.0  # a part of a dump is made while we receive it; this is for a kernel that is broken
_DUMP_TRIES: Final = 5  # a dump is broken off when a set changes in its midst


class KernelError(OSError):
    """The kernel said no. `what` names the message, `number` its place in its batch from 1; 0: the batch as a whole."""

    def __init__(self, number: int, code: int, what: str, words: str = "") -> None:
        said = f"{os.strerror(code)} ({words})" if words else os.strerror(code)
        super().__init__(code, f"{what}: {said}" if what else said)
        self.number = number
        self.what = what
        self.words = words


class Message(NamedTuple):
    """One netlink message, header included, and what it is for in words."""

    what: str
    data: bytes


@dataclass(slots=True)
class _Said:
    """One answer: the sequence number, errno (0: done) and words."""

    sequence: int
    code: int
    words: str


class NetlinkSocket:
    """A socket of ours to netfilter. What is made with an owner flag lives as long as this socket."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 1

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Raises OSError where there is no netlink."""
        if self._socket is None:
            self._socket = open_netfilter(BUFFER)
            self._socket.setblocking(False)

    def close(self) -> None:
        """Let go of it, and of everything that it owns."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @property
    def port(self) -> int:
        """The kernel's name for this socket, by which `nft` tells who owns a table; 0 when closed."""
        return 0 if self._socket is None else int(self._socket.getsockname()[0])

    def batch(self, messages: Sequence[Message], subsystem: int) -> None:
        """Apply all messages, or none. Raises KernelError for the first that failed, PermissionError
        that names the capability which is missing."""
        sock = self._opened()
        first = self._sequence
        last = first + len(messages)
        self._sequence = last + 2
        parts = [_edge(_BATCH_BEGIN, first, subsystem)]
        for number, message in enumerate(messages, start=1):
            parts.append(numbered(message.data, first + number, acknowledge=first + number == last))
        parts.append(_edge(_BATCH_END, last + 1, subsystem))
        _drain(sock)
        try:
            sock.send(b"".join(parts))
        except OSError as error:
            raise KernelError(0, error.errno or errno.EIO, f"{len(messages)} messages in one batch") from None
        self._judge(self._answers(sock), first, last, messages)

    def _judge(self, answers: Iterator[_Said], first: int, last: int, messages: Sequence[Message]) -> None:
        worst: KernelError | None = None
        for said in answers:
            if said.code and said.sequence == first:
                if said.code == errno.EPERM:
                    raise missing(NET_ADMIN, "set rules of nf_tables")
                raise worst or KernelError(0, said.code, "the batch as a whole", said.words)
            if said.code and worst is None and first < said.sequence <= last:
                number = said.sequence - first
                worst = KernelError(number, said.code, messages[number - 1].what, said.words)
            if said.sequence == last:
                if worst is not None:
                    raise worst
                return
        raise worst or KernelError(0, errno.EPROTO, "the kernel did not answer")

    def _answers(self, sock: socket.socket) -> Iterator[_Said]:
        """Everything that waits for us; the kernel has finished when this is called."""
        while True:
            try:
                data = sock.recv(_DUMP_PART)
            except BlockingIOError:
                return
            except OSError as error:  # ENOBUFS: thousands of errors at once
                raise KernelError(0, error.errno or errno.EIO, "the answers to a batch") from None
            for kind, flags, sequence, body in messages_in(data):
                if kind == NLMSG_ERROR:
                    yield _Said(sequence, -_ERROR.unpack_from(body)[0], _words(flags, body))

    def dump(self, request: bytes, what: str) -> list[bytes]:
        """Every message that answers one request. Raises KernelError, or PermissionError as `batch`."""
        sock = self._opened()
        for _ in range(_DUMP_TRIES):
            self._sequence += 1
            _drain(sock)
            data = bytearray(numbered(request, self._sequence, acknowledge=False))
            struct.pack_into("=H", data, 6, REQUEST | _DUMP)
            sock.send(data)
            found = self._dumped(sock, what)
            if found is not None:
                return found
        raise KernelError(0, errno.EINTR, what, "it changes faster than it can be read")

    def _dumped(self, sock: socket.socket, what: str) -> list[bytes] | None:
        """None if something changed meanwhile and the dump has to begin again."""
        found: list[bytes] = []
        interrupted = False
        while True:
            if not _readable(sock):
                raise KernelError(0, errno.ETIMEDOUT, what)
            try:
                data = sock.recv(_DUMP_PART)
            except OSError as error:
                raise KernelError(0, error.errno or errno.EIO, what) from None
            at = 0
            for kind, flags, sequence, body in messages_in(data):
                length = HEADER.size + len(body)
                whole, at = data[at : at + length], at + (length + 3 & ~3)
                if sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(flags & _DUMP_INTERRUPTED)
                if kind in {NLMSG_ERROR, _NLMSG_DONE}:
                    code = -_ERROR.unpack_from(body)[0] if len(body) >= _ERROR.size else 0
                    if code == errno.EPERM:
                        raise missing(NET_ADMIN, f"read the {what}")
                    if code:
                        raise KernelError(0, code, what, _words(flags, body))
                    return None if interrupted else found
                found.append(whole)

    def _opened(self) -> socket.socket:
        if self._socket is None:
            raise KernelError(0, errno.EBADF, "netlink socket", "not open")
        return self._socket


def open_netfilter(buffer: int) -> socket.socket:
    """A bound socket that gives words with errors, with buffers of so many bytes where we may. Raises OSError."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    try:
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            sock.setsockopt(SOL_NETLINK, option, 1)
        for option in (_SO_SNDBUFFORCE, SO_RCVBUFFORCE):
            with contextlib.suppress(PermissionError):  # it will say so when it is asked for something
                sock.setsockopt(socket.SOL_SOCKET, option, buffer)
        sock.bind((0, 0))
    except OSError:
        sock.close()
        raise
    return sock


def messages_in(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and body of each message; ends where the framing does."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, at)
        if not HEADER.size <= length <= len(data) - at:
            return
        yield kind, flags, sequence, data[at + HEADER.size : at + length]
        at += length + 3 & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """A netlink attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes_in(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Type, without its flags, and value of each attribute; ends where the framing does."""
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            return
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


def numbered(data: bytes, sequence: int, *, acknowledge: bool) -> bytes:
    """The message under this sequence number, and whether its success is to be confirmed."""
    length, kind, flags, _, _ = HEADER.unpack_from(data)
    flags = flags | ACK if acknowledge else flags & ~ACK
    return HEADER.pack(length, kind, flags, sequence, 0) + data[HEADER.size :] + bytes(-length % 4)


def _edge(kind: int, sequence: int, subsystem: int) -> bytes:
    return HEADER.pack(HEADER.size + NFGEN.size, kind, REQUEST, sequence, 0) + NFGEN.pack(0, 0, subsystem)


def _words(flags: int, body: bytes) -> str:
    """What the kernel says beyond the number (NETLINK_EXT_ACK)."""
    if not flags & _ACK_TLVS:
        return ""
    for kind, value in attributes_in(body, _ERROR.size + HEADER.size):
        if kind == _ERROR_TEXT:
            return value.rstrip(b"\0").decode(errors="replace")
    return ""


def _drain(sock: socket.socket) -> None:
    """Forget answers that nobody waited for."""
    with contextlib.suppress(OSError):
        while sock.recv(_DUMP_PART):
            pass


def _readable(sock: socket.socket) -> bool:
    """Whether something comes in time. select(2) could not look at descriptors beyond 1023."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(_DUMP_SECONDS * 1000))
