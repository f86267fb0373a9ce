"""Datagrams in batches: the compiled functions and their Python twins do the same."""

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import native
from agent.ingress import datagrams
from agent.ingress.datagrams import (
    MAX_BATCH,
    AddressTexts,
    Datagram,
    pack_address,
    read_address,
    recv_batch_py,
    send_batch_py,
    with_port,
)

Twins = tuple[Callable[[int, int], list[Datagram]], Callable[[int, list[Datagram]], int]]


@pytest.fixture(params=["native", "python"])
def twins(request: pytest.FixtureRequest) -> Twins:
    """recv_batch and send_batch, compiled and in Python."""
    if request.param == "python":
        return recv_batch_py, send_batch_py
    if native.udp is None:
        pytest.skip("the compiled twin is not built")
    return native.udp.recv_batch, native.udp.send_batch


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets on loopback."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one, socket.socket(family, socket.SOCK_DGRAM) as other:
        for sock in (one, other):
            sock.setblocking(False)
            sock.bind((request.param, 0))
        yield one, other


def address_of(sock: socket.socket) -> bytes:
    return pack_address(*sock.getsockname())


def test_batches_arrive_in_order_with_their_sender(twins: Twins, pair: tuple[socket.socket, socket.socket]) -> None:
    receive, send = twins
    one, other = pair
    payloads = [b"%d" % i for i in range(MAX_BATCH)] + [b"", b"x" * 9000]
    assert send(one.fileno(), [(payload, address_of(other)) for payload in payloads]) == 0
    first = receive(other.fileno(), MAX_BATCH)
    rest = receive(other.fileno(), 5)
    assert [payload for payload, _ in first + rest] == payloads
    assert {address for _, address in first + rest} == {address_of(one)}
    assert receive(other.fileno(), 1) == []


def test_addresses_that_came_can_be_sent_to(twins: Twins, pair: tuple[socket.socket, socket.socket]) -> None:
    receive, send = twins
    one, other = pair
    send(one.fileno(), [(b"ping", address_of(other))])
    ((_, back),) = receive(other.fileno(), 1)
    assert send(other.fileno(), [(b"pong", back)]) == 0
    assert one.recv(10) == b"pong"


def test_what_cannot_be_sent_is_counted_and_stops_nothing_else(
    twins: Twins, pair: tuple[socket.socket, socket.socket]
) -> None:
    _, send = twins
    one, other = pair
    target = address_of(other)
    datagrams_ = [
        (b"x" * 70_000, target),
        (b"a", target),
        (b"b", with_port(target, 0)),
        (b"c", b"\0\0"),
        (b"d", target),
    ]
    assert send(one.fileno(), datagrams_) == 3
    assert [other.recv(10), other.recv(10)] == [b"a", b"d"]


def test_nothing_to_send(twins: Twins, pair: tuple[socket.socket, socket.socket]) -> None:
    assert twins[1](pair[0].fileno(), []) == 0


@pytest.mark.parametrize("most", [0, -1, MAX_BATCH + 1])
def test_size_of_a_batch_is_bounded(twins: Twins, pair: tuple[socket.socket, socket.socket], most: int) -> None:
    with pytest.raises(ValueError, match="a batch has 1 to 64"):
        twins[0](pair[0].fileno(), most)


def test_file_that_is_no_socket_is_an_error(twins: Twins) -> None:
    with open("/dev/null") as file, pytest.raises(OSError, match=r"[sS]ocket"):  # noqa: PTH123
        twins[0](file.fileno(), 1)


@pytest.mark.skipif(native.udp is None, reason="the compiled twin is not built")
def test_compiled_functions_refuse_other_types() -> None:
    assert native.udp is not None
    for wrong in ([b"x"], [(b"x",)], [(b"x", "y")], [("x", b"y")], [[b"x", b"y"]]):
        with pytest.raises(TypeError):
            native.udp.send_batch(0, wrong)
    with pytest.raises(TypeError):
        native.udp.send_batch(0, ((b"x", b"y"),))
    assert native.udp.MAX_BATCH == MAX_BATCH


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_address_packed_and_read_is_the_same(host: IPv4Address | IPv6Address, port: int) -> None:
    for packed in (pack_address(str(host), port), with_port(pack_address(str(host), 1), port)):
        text, read_port = read_address(packed)
        assert (ip_address(text), read_port) == (host, port)


@pytest.mark.parametrize("junk", [b"", b"\0" * 16, b"\2\0" + b"x" * 3, b"\n\0" + b"x" * 14])
def test_bytes_that_are_no_address(junk: bytes) -> None:
    with pytest.raises(ValueError, match=r"address|AddressFamily"):
        read_address(junk)


def test_texts_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "TEXTS_MAX", 3)
    texts = AddressTexts()
    for port in range(10):
        assert texts(pack_address("192.0.2.1", port)) == ("192.0.2.1", port)
        assert len(texts._texts) <= 3
