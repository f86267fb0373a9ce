"""Answers from an address and port that another program has."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw
from scapy.utils import checksum as scapys_checksum

from agent.kernel.raw_reply import Path, RawReplies, checksum, with_header
from tests.fakes.namespaces import Namespace, join, need_namespaces

HERE, THERE = "192.0.2.1", "192.0.2.2"
HERE6, THERE6 = "2001:db8:1::1", "2001:db8:1::2"


@given(st.binary(min_size=1, max_size=300).filter(any))
@example(b"\xff\xff")
@example(b"\xff\xff\xff\xff\xff")
@example(b"\x01")
def test_the_checksum_is_the_one_of_rfc_1071(data: bytes) -> None:
    assert checksum(data) == (scapys_checksum(data) or 0xFFFF)


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4), st.integers(0, 65_535))
def test_the_header_of_ipv4_is_scapys(payload: bytes, target: bytes, port: int) -> None:
    path = Path(socket.inet_aton(HERE), 5060, target, port)
    packet = IP(src=HERE, dst=socket.inet_ntoa(target)) / UDP(sport=5060, dport=port) / Raw(payload)
    assert with_header(payload, path) == bytes(packet)[20:]


@pytest.fixture(scope="module")
def spaces() -> Iterator[tuple[Namespace, Namespace]]:
    need_namespaces()
    with Namespace("here") as here, Namespace("there") as there:
        join(here, "here0", there, "there0")
        here.address("here0", f"{HERE}/24", f"{HERE6}/64")
        there.address("there0", f"{THERE}/24", f"{THERE6}/64")
        yield here, there


def _open(space: Namespace, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with space.inside():
        sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((host, port))
    sock.settimeout(5.0)
    return sock


@pytest.mark.kernel
@pytest.mark.parametrize(("here", "there"), [(HERE, THERE), (HERE6, THERE6)], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("length", [0, 1, 300, 4_000])
def test_an_answer_comes_from_the_port_of_another_program(
    spaces: tuple[Namespace, Namespace], here: str, there: str, length: int
) -> None:
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    with _open(spaces[0], here, 5060) as owner, _open(spaces[1], there, 5070) as peer:
        replies = RawReplies()
        with spaces[0].inside():
            path = Path(socket.inet_pton(family, here), 5060, socket.inet_pton(family, there), 5070)
            payload = bytes(n % 251 for n in range(length))
            replies.send([(payload, path)] * 3)
        for _ in range(3):
            assert peer.recvfrom(65_535)[:2][0] == payload
        peer.sendto(b"x", (here, 5060))  # the owner of the port still has it
        assert owner.recv(10) == b"x"
        assert replies.unsent == 0
        replies.close()


@pytest.mark.kernel
def test_an_address_that_is_not_ours_or_is_many_cannot_answer(spaces: tuple[Namespace, Namespace]) -> None:
    with spaces[0].inside():
        replies = RawReplies()
        assert replies.can_send_from(socket.inet_aton(HERE))
        assert not replies.can_send_from(socket.inet_aton("198.51.100.1"))
        assert not replies.can_send_from(socket.inet_aton("224.0.1.75"))
        assert not replies.can_send_from(socket.inet_pton(socket.AF_INET6, "ff02::1"))
        replies.send([(b"x", Path(socket.inet_aton("198.51.100.1"), 5060, socket.inet_aton(THERE), 5070))] * 2)
        assert replies.unsent == 2
        replies.close()
