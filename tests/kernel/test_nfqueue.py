"""Messages of the kernel's queue, as bytes; the queue itself is tested with packets in tests/ingress/queue."""

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.netlink import attribute, attributes_in, messages_in
from agent.kernel.nfqueue import Queue, read_queued


def message(*attributes: bytes, kind: int = 0x300) -> bytes:
    body = b"\x02\x00" + struct.pack("!H", 7) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


HEADER = attribute(1, struct.pack("!IHB", 4_000_000_000, 0x0800, 1))


def test_a_packet_is_read_with_its_id_and_interface() -> None:
    found = read_queued(message(HEADER, attribute(5, struct.pack("!I", 3)), attribute(10, b"packet")))
    assert found == (4_000_000_000, b"packet", 3)


def test_other_messages_are_no_packets() -> None:
    assert read_queued(message(HEADER, kind=2)) is None
    assert read_queued(message(attribute(10, b"packet"))) is None
    assert read_queued(b"") is None


def test_a_packet_without_bytes_is_still_to_be_answered() -> None:
    assert read_queued(message(HEADER)) == (4_000_000_000, b"", 0)


def test_verdicts_go_out_in_one_piece() -> None:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, kernel:
        queue = Queue(7, 16)
        queue._socket = ours
        queue.answer([1, 4_000_000_000], [2])
        data = kernel.recv(4096)
        queue.answer([], [])
    verdicts = [dict(attributes_in(body, 4))[2] for kind, _, _, body in messages_in(data) if kind == 0x301]
    assert [struct.unpack("!II", one) for one in verdicts] == [(1, 1), (1, 4_000_000_000), (0, 2)]
    assert len(data) == 3 * 32


@given(st.binary(max_size=120))
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    read_queued(data)
    list(messages_in(data))
    list(attributes_in(data))


@given(st.lists(st.tuples(st.integers(0, 20), st.binary(max_size=12)), max_size=6))
def test_arbitrary_attributes_never_raise(rows: list[tuple[int, bytes]]) -> None:
    read_queued(message(*(attribute(kind, value) for kind, value in rows)))
