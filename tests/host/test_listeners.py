"""Who listens on this host, from /proc."""

import contextlib
import os
import socket
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.host.listeners import Listener, can_bind, holder, listeners, read_row, sip_listeners, sip_servers
from agent.model import ParseError

UDP = "  123: 050200C0:13C4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0"
TCP6 = (
    "  9: B80D0120000000000000000005000000:13C5 00000000000000000000000000000000:0000 0A 00000000:00000000 "
    "00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0"
)


def test_ipv4_row_is_read_in_the_kernels_byte_order() -> None:
    assert read_row(UDP, "udp") == Listener("udp", IPv4Address("192.0.2.5"), 5060, 4711)


def test_ipv6_row_is_read_word_by_word() -> None:
    assert read_row(TCP6, "tcp") == Listener("tcp", IPv6Address("2001:db8::5"), 5061, 4712)


def test_connected_socket_is_no_listener() -> None:
    assert read_row(UDP.replace(" 07 ", " 01 "), "udp") is None


@given(st.text())
def test_no_text_raises_anything_but_parse_error(row: str) -> None:
    for transport in ("udp", "tcp"):
        with contextlib.suppress(ParseError):
            read_row(row, transport)


@given(st.sampled_from([UDP, TCP6]), st.integers(0, 140), st.text(max_size=3))
def test_damaged_row_raises_nothing_but_parse_error(row: str, place: int, text: str) -> None:
    with contextlib.suppress(ParseError):
        read_row(row[:place] + text + row[place + 1 :], "udp")


def test_own_sockets_are_found_with_their_program() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind(("127.0.0.1", 0))
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        found = {(one.transport, one.port): one for one in listeners()}
        mine = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
        assert found["udp", udp.getsockname()[1]].program == mine
        assert found["tcp", tcp.getsockname()[1]].program == mine
        assert holder("tcp", "127.0.0.1", tcp.getsockname()[1]) == mine


def test_taken_port_cannot_be_bound_and_a_free_one_can() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        port = udp.getsockname()[1]
        error = can_bind("udp", "127.0.0.1", port)
        assert error is not None
        assert error.strerror == "Address already in use"
    assert can_bind("udp", "127.0.0.1", port) is None


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with one Kamailio on 192.0.2.5:5070, and a socket of somebody on 5060."""
    net, process = tmp_path / "net", tmp_path / "77"
    (process / "fd").mkdir(parents=True)
    net.mkdir()
    (net / "udp").write_text(
        "heading\n" + UDP.replace("13C4", "13CE") + "\n" + UDP.replace("4711", "9") + "\nrubbish\n"
    )
    (process / "comm").write_text("kamailio\n")
    (process / "fd" / "3").symlink_to("socket:[4711]")
    (process / "fd" / "4").symlink_to("/dev/null")
    return tmp_path


def test_sip_server_is_known_by_its_name(proc: Path) -> None:
    assert sip_servers(proc) == ("Kamailio",)


def test_every_udp_socket_of_a_sip_proxy_is_sip_and_so_is_port_5060_of_anybody(proc: Path) -> None:
    assert [str(one) for one in sip_listeners(listeners(proc))] == ["udp:192.0.2.5:5060", "udp:192.0.2.5:5070"]


def test_host_without_proc_has_no_listeners(tmp_path: Path) -> None:
    assert listeners(tmp_path / "absent") == ()
    assert sip_servers(tmp_path / "absent") == ()
